/** Everything that serves a virtio device, side by side: rows of the groups net and blk, under one name. */
import { BLK_DATAPATHS, NET_DATAPATHS } from '../subjects/all.ts';
import { measureBlk } from './blk.ts';
import type { Group } from './group.ts';
import { measureNet } from './net.ts';

export const datapathsGroup: Group = {
  name: 'datapaths',
  summary:
    'net and blk by every datapath: in process, polled, vhost, vhost-user, vDPA, VFIO, userland',
  named: true,
  image: 'tools',
  subjects: [...NET_DATAPATHS, ...BLK_DATAPATHS],
  async run(context) {
    await measureNet(datapathsGroup, NET_DATAPATHS, context);
    await measureBlk(datapathsGroup, BLK_DATAPATHS, context);
  },
};
