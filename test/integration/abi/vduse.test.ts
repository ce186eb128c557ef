/** VDUSE structs and ioctls, against the kernel header. */
import t from 'tap';
import * as abi from '../../../src/abi/vduse.ts';
import { testHeader } from './c-program.ts';

const structs = {
  vduse_dev_config: abi.vduse_dev_config,
  vduse_iotlb_entry: abi.vduse_iotlb_entry,
  vduse_config_data: abi.vduse_config_data,
  vduse_vq_config: abi.vduse_vq_config,
  vduse_vq_info: abi.vduse_vq_info,
  vduse_vq_eventfd: abi.vduse_vq_eventfd,
  vduse_dev_request: abi.vduse_dev_request,
  vduse_dev_response: abi.vduse_dev_response,
  vduse_vq_state: abi.vduse_vq_state,
};
/** Members of anonymous unions, by their path in the header. */
const path = (field: string): string => (field.startsWith('last_') ? `packed.${field}` : field);

testHeader(t, ['linux/ioctl.h', 'linux/vduse.h'], structs, abi, path);
