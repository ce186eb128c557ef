/* SHA-256 (FIPS 180-4), and HMAC (RFC 2104) with a key of 32 bytes. */
#include "driver.h"

#include <stdio.h>
#include <string.h>

static const uint32_t constants[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t word, int bits)
{
	return word >> bits | word << (32 - bits);
}

/* §6.2.2 */
static void compress(struct sha256 *s)
{
	uint32_t w[64], v[8];

	for (int t = 0; t < 16; t++) {
		const uint8_t *p = s->block + 4 * t;
		w[t] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
	}
	for (int t = 16; t < 64; t++) {
		uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
		uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
		w[t] = s1 + w[t - 7] + s0 + w[t - 16];
	}
	memcpy(v, s->state, sizeof(v));
	for (int t = 0; t < 64; t++) {
		uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
		uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + constants[t] + w[t];
		uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
		uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
		memmove(v + 1, v, 7 * sizeof(*v));
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		s->state[i] += v[i];
}

void sha256_init(struct sha256 *s)
{
	static const uint32_t initial[8] = {
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	};

	memcpy(s->state, initial, sizeof(initial));
	s->length = 0;
}

void sha256_update(struct sha256 *s, const void *data, size_t length)
{
	const uint8_t *bytes = data;

	for (size_t i = 0; i < length; i++) {
		s->block[s->length++ % 64] = bytes[i];
		if (s->length % 64 == 0)
			compress(s);
	}
}

void sha256_final(struct sha256 *s, uint8_t digest[SHA256_SIZE])
{
	uint64_t bits = s->length * 8;
	uint8_t end[8];

	for (int i = 0; i < 8; i++)
		end[i] = (uint8_t)(bits >> (56 - 8 * i));
	sha256_update(s, "\x80", 1);
	while (s->length % 64 != 56)
		sha256_update(s, "", 1);
	sha256_update(s, end, 8);
	for (int i = 0; i < SHA256_SIZE; i++)
		digest[i] = (uint8_t)(s->state[i / 4] >> (24 - 8 * (i % 4)));
}

static void start(struct sha256 *s, const uint8_t key[SHA256_SIZE], uint8_t pad)
{
	uint8_t block[64];

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (i < SHA256_SIZE ? key[i] : 0) ^ pad;
	sha256_init(s);
	sha256_update(s, block, sizeof(block));
}

void hmac_init(struct sha256 *s, const uint8_t key[SHA256_SIZE])
{
	start(s, key, 0x36);
}

void hmac_final(struct sha256 *s, const uint8_t key[SHA256_SIZE], uint8_t mac[SHA256_SIZE])
{
	uint8_t inner[SHA256_SIZE];

	sha256_final(s, inner);
	start(s, key, 0x5c);
	sha256_update(s, inner, sizeof(inner));
	sha256_final(s, mac);
}

void print_hex(const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		printf("%02x", bytes[i]);
	printf("\n");
}
