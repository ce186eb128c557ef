/** vhost-vdpa structs and ioctls, against the kernel header. */
import t from 'tap';
import * as abi from '../../../src/abi/vhost-vdpa.ts';
import { testHeader } from './c-program.ts';

const structs = {
  vhost_vdpa_config: abi.vhost_vdpa_config,
  vhost_vdpa_iova_range: abi.vhost_vdpa_iova_range,
};

const newer = ['VHOST_BACKEND_F_RESUME', 'VHOST_VDPA_RESUME'];
testHeader(t, ['linux/vhost.h'], structs, abi, (field) => field, newer);
