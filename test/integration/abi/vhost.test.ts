/** vhost structs and ioctls, against the kernel header. */
import t from 'tap';
import * as abi from '../../../src/abi/vhost.ts';
import { testHeader } from './c-program.ts';

const structs = {
  vhost_vring_state: abi.vhost_vring_state,
  vhost_vring_file: abi.vhost_vring_file,
  vhost_vring_addr: abi.vhost_vring_addr,
  vhost_memory: abi.vhost_memory,
  vhost_memory_region: abi.vhost_memory_region,
  vhost_iotlb_msg: abi.vhost_iotlb_msg,
  vhost_msg_v2: abi.vhost_msg_v2,
};

testHeader(t, ['linux/vhost.h'], structs, abi, (field) => field.replace(/_$/, ''));
