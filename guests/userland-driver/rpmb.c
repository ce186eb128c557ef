/*
 * The replay protected memory block device (§5.12), which Linux has no driver for: whoever has the key
 * can write, nobody can write the same twice, and a reader knows that the answer is fresh.
 */
#include "driver.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BLOCK 256
#define BLOCKS_MAX 8

/* §5.12.6; all numbers are big-endian. */
struct frame {
	uint8_t stuff[196];
	uint8_t key_mac[SHA256_SIZE];
	uint8_t data[BLOCK];
	uint8_t nonce[16];
	uint32_t write_counter;
	uint16_t address;
	uint16_t block_count;
	uint16_t result;
	uint16_t req_resp;
} __attribute__((packed));

_Static_assert(sizeof(struct frame) == 512, "§5.12.6");

enum {
	REQ_PROGRAM_KEY = 1,
	REQ_GET_WRITE_COUNTER = 2,
	REQ_DATA_WRITE = 3,
	REQ_DATA_READ = 4,
	REQ_RESULT_READ = 5,
};

static const char *const results[] = {
	"OK", "GENERAL_FAILURE", "AUTH_FAILURE", "COUNT_FAILURE",
	"ADDR_FAILURE", "WRITE_FAILURE", "READ_FAILURE", "NO_AUTH_KEY",
};

static const uint8_t key[SHA256_SIZE] = "the key of this example, known.";

static struct {
	struct device device;
	struct ring queue;
	struct frame *request, *answer;	/* BLOCKS_MAX + 1 and BLOCKS_MAX */
} rpmb;

/* What a MAC covers: of each frame, all that is behind it. */
static void mac_of(const struct frame *frames, unsigned count, const uint8_t with[SHA256_SIZE], uint8_t mac[SHA256_SIZE])
{
	struct sha256 hmac;

	hmac_init(&hmac, with);
	for (unsigned i = 0; i < count; i++)
		sha256_update(&hmac, frames[i].data, sizeof(*frames) - offsetof(struct frame, data));
	hmac_final(&hmac, with, mac);
}

/* Sends frames, gets frames. */
static void exchange(unsigned sent, unsigned received)
{
	const struct function *f = rpmb.device.function;
	struct buffer buffers[2] = {
		{ dma_address(f, rpmb.request), sent * (uint32_t)sizeof(struct frame), false },
		{ dma_address(f, rpmb.answer), received * (uint32_t)sizeof(struct frame), true },
	};
	uint32_t written;

	memset(rpmb.answer, 0, received * sizeof(struct frame));
	ring_add(&rpmb.queue, buffers, 2);
	ring_kick(&rpmb.queue);
	ring_wait(&rpmb.queue, &written);
	if (written % sizeof(struct frame) != 0 || written == 0 || written > received * sizeof(struct frame))
		fail("the device says that it wrote %u bytes", written);
}

static const char *result_name(void)
{
	unsigned result = be16toh(rpmb.answer->result) & 0x7f;

	return result < sizeof(results) / sizeof(*results) ? results[result] : "unknown";
}

/* An answer is to the request, and from one who knows the key. */
static void check_answer(unsigned type, unsigned frames, const uint8_t nonce[16])
{
	uint8_t mac[SHA256_SIZE];

	if (be16toh(rpmb.answer->req_resp) != type << 8)
		fail("an answer of type %#x", be16toh(rpmb.answer->req_resp));
	if (be16toh(rpmb.answer->result) != 0)
		fail("%s", result_name());
	mac_of(rpmb.answer, frames, key, mac);
	if (memcmp(mac, rpmb.answer[frames - 1].key_mac, sizeof(mac)) != 0)
		fail("the answer has a wrong MAC");
	if (nonce && memcmp(rpmb.answer->nonce, nonce, 16) != 0)
		fail("the answer is an old one");
}

/* §5.12.6.1: a key can be programmed once. */
static void program_key(void)
{
	memset(rpmb.request, 0, 2 * sizeof(struct frame));
	rpmb.request[0].req_resp = htobe16(REQ_PROGRAM_KEY);
	rpmb.request[0].block_count = htobe16(1);
	memcpy(rpmb.request[0].key_mac, key, sizeof(key));
	rpmb.request[1].req_resp = htobe16(REQ_RESULT_READ);
	exchange(2, 1);
	printf("key: %s\n", result_name());
}

static void new_nonce(uint8_t nonce[16])
{
	if (getrandom(nonce, 16, 0) != 16)
		fail_errno("getrandom");
}

static uint32_t read_counter(void)
{
	uint8_t nonce[16];

	new_nonce(nonce);
	memset(rpmb.request, 0, sizeof(struct frame));
	rpmb.request->req_resp = htobe16(REQ_GET_WRITE_COUNTER);
	rpmb.request->block_count = htobe16(1);
	memcpy(rpmb.request->nonce, nonce, sizeof(nonce));
	exchange(1, 1);
	check_answer(REQ_GET_WRITE_COUNTER, 1, nonce);
	return be32toh(rpmb.answer->write_counter);
}

/* Makes frames that write a text, for the current counter. Returns how many blocks it takes. */
static unsigned make_write(uint16_t block, const char *text, const uint8_t with[SHA256_SIZE])
{
	uint32_t counter = read_counter();
	size_t length = strlen(text) + 1;
	unsigned count = (unsigned)((length + BLOCK - 1) / BLOCK);

	if (count > BLOCKS_MAX)
		fail("the text is too long");
	memset(rpmb.request, 0, (count + 1) * sizeof(struct frame));
	for (unsigned i = 0; i < count; i++) {
		struct frame *frame = &rpmb.request[i];
		size_t rest = length - i * BLOCK;
		memcpy(frame->data, text + i * BLOCK, rest < BLOCK ? rest : BLOCK);
		frame->write_counter = htobe32(counter);
		frame->address = htobe16(block);
		frame->block_count = htobe16((uint16_t)count);
		frame->req_resp = htobe16(REQ_DATA_WRITE);
	}
	mac_of(rpmb.request, count, with, rpmb.request[count - 1].key_mac);
	rpmb.request[count].req_resp = htobe16(REQ_RESULT_READ);
	return count;
}

static void write_text(uint16_t block, const char *text)
{
	unsigned count = make_write(block, text, key);
	uint32_t counter = be32toh(rpmb.request->write_counter);

	exchange(count + 1, 1);
	check_answer(REQ_DATA_WRITE, 1, NULL);
	if (be32toh(rpmb.answer->write_counter) != counter + 1)
		fail("the write was not counted");
	printf("written, counter %u\n", counter + 1);
}

static void replay(uint16_t block, const char *text)
{
	unsigned count = make_write(block, text, key);

	exchange(count + 1, 1);
	printf("first: %s\n", result_name());
	exchange(count + 1, 1);
	printf("again: %s\n", result_name());
}

static void forge(uint16_t block, const char *text)
{
	static const uint8_t other[SHA256_SIZE] = "another key";

	exchange(make_write(block, text, other) + 1, 1);
	printf("forged: %s\n", result_name());
}

static void read_text(uint16_t block, unsigned count)
{
	uint8_t nonce[16];

	if (count == 0 || count > BLOCKS_MAX)
		fail("read takes 1 to %d blocks", BLOCKS_MAX);
	new_nonce(nonce);
	memset(rpmb.request, 0, sizeof(struct frame));
	rpmb.request->req_resp = htobe16(REQ_DATA_READ);
	rpmb.request->address = htobe16(block);
	rpmb.request->block_count = htobe16((uint16_t)count);
	memcpy(rpmb.request->nonce, nonce, sizeof(nonce));
	exchange(1, count);
	check_answer(REQ_DATA_READ, count, nonce);
	for (unsigned i = 0; i < count; i++)
		printf("%.*s", (int)strnlen((const char *)rpmb.answer[i].data, BLOCK), rpmb.answer[i].data);
	printf("\n");
}

int rpmb_run(struct function *f, bool packed, int argc, char **argv)
{
	const char *action = argc > 0 ? argv[0] : "";
	uint16_t block = argc > 1 ? (uint16_t)strtoul(argv[1], NULL, 0) : 0;

	if (virtio_type(f) != VIRTIO_ID_RPMB)
		fail("%s is no RPMB device", f->address);
	virtio_open(&rpmb.device, f, 0, packed);
	virtio_queue(&rpmb.device, &rpmb.queue, 0, 8);
	rpmb.request = dma_alloc(f, (BLOCKS_MAX + 1) * sizeof(struct frame));
	rpmb.answer = dma_alloc(f, BLOCKS_MAX * sizeof(struct frame));
	virtio_start(&rpmb.device);
	if (argc == 1 && strcmp(action, "key") == 0)
		program_key();
	else if (argc == 1 && strcmp(action, "counter") == 0)
		printf("counter %u\n", read_counter());
	else if (argc == 3 && strcmp(action, "write") == 0)
		write_text(block, argv[2]);
	else if (argc == 3 && strcmp(action, "read") == 0)
		read_text(block, (unsigned)strtoul(argv[2], NULL, 0));
	else if (argc == 3 && strcmp(action, "replay") == 0)
		replay(block, argv[2]);
	else if (argc == 3 && strcmp(action, "forge") == 0)
		forge(block, argv[2]);
	else
		fail("rpmb takes key, counter, write, read, replay, or forge");
	return 0;
}
