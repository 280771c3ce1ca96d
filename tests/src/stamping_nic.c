/* A NIC that stamps what it receives, made of net_af_packet, which does not: for LD_PRELOAD, between a program and
 * DPDK's ethdev. It offers RTE_ETH_RX_OFFLOAD_TIMESTAMP, stamps by a callback on its receive queues, and lets its clock be
 * read: ticks of 156.25 MHz that soon wrap around, or, with STAMPING_NIC=ptp, the nanoseconds of a clock for PTP that has to
 * be switched on, beside which rte_eth_read_clock reads another one, or, with STAMPING_NIC=still, ticks that do not move.
 *
 * Each frame of EtherType 0x88b5 came in, it claims, 3 ms before it was polled. Bytes 14 to 21 of the frame get that moment
 * by CLOCK_REALTIME, nanoseconds, little endian, for whoever compares; byte 22 says what is wrong with its stamp: 0 nothing,
 * 1 there is none, 2 it is an hour ahead, 3 two seconds old, 4 as far off as can be. */
#define _GNU_SOURCE
#define ALLOW_EXPERIMENTAL_API
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_ethdev.h>
#include <rte_mbuf_dyn.h>

#define SECOND UINT64_C(1000000000)
#define ON_THE_WAY UINT64_C(3000000)
#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static enum { TICKS, PTP, STILL } kind;
static uint64_t first_tick;
static int switched_on;
static uint16_t stamping[RTE_MAX_ETHPORTS];	/* receive queues that are to be stamped */
static int offset;
static uint64_t flag;

static uint64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static uint64_t ticks_at(uint64_t monotonic_ns)
{
	return kind == PTP ? monotonic_ns + 37 * SECOND : first_tick + monotonic_ns / 32 * 5 + monotonic_ns % 32 * 5 / 32;
}

__attribute__((constructor)) static void begin(void)
{
	const char *asked = getenv("STAMPING_NIC");

	kind = asked == NULL ? TICKS : strcmp(asked, "ptp") == 0 ? PTP : STILL;
	/* Zero comes two seconds from now. */
	first_tick = -ticks_at(now_ns(CLOCK_MONOTONIC) + 2 * SECOND);
}

static uint16_t stamp(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count, uint16_t room, void *of)
{
	uint64_t monotonic = now_ns(CLOCK_MONOTONIC) - ON_THE_WAY, real = now_ns(CLOCK_REALTIME) - ON_THE_WAY;

	for (uint16_t i = 0; i < count; i++) {
		uint8_t *frame = rte_pktmbuf_mtod(packets[i], uint8_t *);
		uint64_t *field = RTE_MBUF_DYNFIELD(packets[i], offset, uint64_t *);

		if (packets[i]->data_len < 23 || frame[12] != 0x88 || frame[13] != 0xb5)
			continue;
		memcpy(frame + 14, &real, sizeof(real));
		*field = ticks_at(monotonic + (frame[22] == 2 ? 3600 * SECOND : 0) - (frame[22] == 3 ? 2 * SECOND : 0));
		if (frame[22] == 4)
			*field += UINT64_C(1) << 63;
		if (frame[22] != 1)
			packets[i]->ol_flags |= flag;
	}
	return count;
}

int rte_eth_dev_info_get(uint16_t port, struct rte_eth_dev_info *info)
{
	REAL(rte_eth_dev_info_get);
	int ret = real(port, info);

	if (ret == 0 && strcmp(info->driver_name, "net_af_packet") == 0)
		info->rx_offload_capa |= RTE_ETH_RX_OFFLOAD_TIMESTAMP;
	return ret;
}

int rte_eth_dev_configure(uint16_t port, uint16_t rx, uint16_t tx, const struct rte_eth_conf *conf)
{
	REAL(rte_eth_dev_configure);
	struct rte_eth_conf rest = *conf;

	stamping[port] = conf->rxmode.offloads & RTE_ETH_RX_OFFLOAD_TIMESTAMP ? rx : 0;
	rest.rxmode.offloads &= ~RTE_ETH_RX_OFFLOAD_TIMESTAMP;
	return real(port, rx, tx, &rest);
}

int rte_eth_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors, unsigned int socket,
			   const struct rte_eth_rxconf *conf, struct rte_mempool *pool)
{
	REAL(rte_eth_rx_queue_setup);
	struct rte_eth_rxconf rest = *conf;

	rest.offloads &= ~RTE_ETH_RX_OFFLOAD_TIMESTAMP;
	return real(port, queue, descriptors, socket, &rest, pool);
}

int rte_eth_dev_start(uint16_t port)
{
	REAL(rte_eth_dev_start);
	int ret = real(port);

	if (ret == 0 && stamping[port] != 0)
		ret = rte_mbuf_dyn_rx_timestamp_register(&offset, &flag);
	for (uint16_t queue = 0; ret == 0 && queue < stamping[port]; queue++)
		if (rte_eth_add_rx_callback(port, queue, stamp, NULL) == NULL)
			ret = -rte_errno;
	return ret;
}

int rte_eth_read_clock(uint16_t port, uint64_t *ticks)
{
	*ticks = kind == STILL ? 4711 : kind == PTP ? now_ns(CLOCK_MONOTONIC) : ticks_at(now_ns(CLOCK_MONOTONIC));
	return 0;
}

int rte_eth_timesync_enable(uint16_t port)
{
	switched_on = kind == PTP;
	return switched_on ? 0 : -ENOTSUP;
}

int rte_eth_timesync_read_time(uint16_t port, struct timespec *time)
{
	uint64_t ns = switched_on ? ticks_at(now_ns(CLOCK_MONOTONIC)) : 0;

	if (kind != PTP)
		return -ENOTSUP;
	time->tv_sec = ns / SECOND;
	time->tv_nsec = ns % SECOND;
	return 0;
}
