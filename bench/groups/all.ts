/** The groups of measures, in the order of the report. */
import { blkGroup } from './blk.ts';
import { bootGroup } from './boot.ts';
import { datapathsGroup } from './datapaths.ts';
import { deviceGroup } from './device.ts';
import { exitsGroup } from './exits.ts';
import type { Group } from './group.ts';
import { netGroup } from './net.ts';
import { queueWalkGroup } from './queue-walk.ts';
import { rssGroup } from './rss.ts';
import { vhostUserGroup } from './vhost-user.ts';
import { vhostUserBlkGroup, vhostUserFsGroup } from './vhost-user-requests.ts';

export const GROUPS: readonly Group[] = [
  exitsGroup,
  deviceGroup,
  bootGroup,
  netGroup,
  blkGroup,
  rssGroup,
  datapathsGroup,
  queueWalkGroup,
  vhostUserGroup,
  vhostUserBlkGroup,
  vhostUserFsGroup,
];
