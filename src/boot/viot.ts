/** The Virtual I/O Translation table (ACPI 6.5 §5.2.34): the IOMMU, and which devices are behind it. */
import * as acpi from '../abi/acpi.ts';
import { littleEndian } from './aml.ts';

/** Where a guest finds a device: bus, device and function as one number, or an address in memory. */
export type ViotPlace =
  | { readonly kind: 'pci'; readonly bdf: number }
  | { readonly kind: 'mmio'; readonly address: number };

/** A machine's IOMMU. */
export interface ViotOptions {
  readonly iommu: ViotPlace;
  readonly endpoints: readonly { readonly id: number; readonly place: ViotPlace }[];
}

/** Offset of the first node, the IOMMU's, in the table. */
const FIRST_NODE = acpi.DESCRIPTION_HEADER.size + acpi.VIOT_HEADER_SIZE;

/** The table's body, behind the header that all tables have. */
export function viotBody({ iommu, endpoints }: ViotOptions): number[] {
  const nodes = [iommuNode(iommu), ...endpoints.map(({ id, place }) => endpointNode(id, place))];
  const header = [...littleEndian(nodes.length, 2), ...littleEndian(FIRST_NODE, 2)];
  return [...header, ...littleEndian(0, 8), ...nodes.flat()];
}

function iommuNode(place: ViotPlace): number[] {
  return place.kind === 'pci'
    ? node(acpi.VIOT_NODE_VIRTIO_IOMMU_PCI, [0, 0, ...littleEndian(place.bdf, 2)], 16)
    : node(
        acpi.VIOT_NODE_VIRTIO_IOMMU_MMIO,
        [...littleEndian(0, 4), ...littleEndian(place.address, 8)],
        16,
      );
}

function endpointNode(id: number, place: ViotPlace): number[] {
  const output = littleEndian(FIRST_NODE, 2);
  const endpoint = littleEndian(id, 4);
  if (place.kind === 'mmio') {
    const address = littleEndian(place.address, 8);
    return node(acpi.VIOT_NODE_MMIO_ENDPOINT, [...endpoint, ...address, ...output], 24);
  }
  const bdf = littleEndian(place.bdf, 2);
  // First and last segment, first and last function.
  const range = [0, 0, 0, 0, ...bdf, ...bdf];
  return node(acpi.VIOT_NODE_PCI_RANGE, [...endpoint, ...range, ...output], 24);
}

function node(type: number, fields: readonly number[], length: number): number[] {
  const bytes = [type, 0, ...littleEndian(length, 2), ...fields];
  return [...bytes, ...Array.from({ length: length - bytes.length }, () => 0)];
}
