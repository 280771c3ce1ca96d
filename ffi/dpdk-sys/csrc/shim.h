/* The face of DPDK that Rust sees: what the headers hide in macros and static inline functions, and
 * what changed between 22.11, 23.11 and 24.11. One call per burst, never one per packet.
 * Tested with 22.11; the other two are handled where their headers are known to differ. */
#ifndef SLUICE_SHIM_H
#define SLUICE_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <rte_config.h>
#include <rte_version.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_mempool.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>
#include <rte_ring.h>
#include <rte_ethdev.h>
#include <rte_interrupts.h>
#include <rte_epoll.h>

/* 22.11 says RTE_IOVA_AS_PA, 23.11 and later RTE_IOVA_IN_MBUF: where the next pointer lies. */
#if defined(RTE_IOVA_IN_MBUF)
#define SLUICE_IOVA_IN_MBUF RTE_IOVA_IN_MBUF
#elif defined(RTE_IOVA_AS_PA)
#define SLUICE_IOVA_IN_MBUF RTE_IOVA_AS_PA
#else
#define SLUICE_IOVA_IN_MBUF 1
#endif

/* The members of struct rte_mbuf that Rust reads and writes in line, at their offsets (asserted in shim.c).
 * The real structure has markers, bit fields and, from 24.11 on, other anonymous unions. */
struct sluice_mbuf {
	uint8_t *buf_addr;
#if SLUICE_IOVA_IN_MBUF
	uint64_t buf_iova;
#else
	struct sluice_mbuf *next;
#endif
	uint16_t data_off;
	uint16_t refcnt;
	uint16_t nb_segs;
	uint16_t port;
	uint64_t ol_flags;
	uint32_t packet_type;
	uint32_t pkt_len;
	uint16_t data_len;
	uint16_t vlan_tci;
	uint32_t hash_rss;
	uint32_t hash_hi;
	uint16_t vlan_tci_outer;
	uint16_t buf_len;
	struct rte_mempool *pool;
#if SLUICE_IOVA_IN_MBUF
	struct sluice_mbuf *next;
#else
	uint64_t dynfield2;
#endif
	uint64_t tx_offload;
	struct sluice_ext_shared *shinfo;
	uint16_t priv_size;
	uint16_t timesync;
	uint32_t dynfield1[9];
} __attribute__((aligned(64)));

/* The head of struct rte_mbuf_ext_shared_info. */
struct sluice_ext_shared {
	void *free_cb;
	void *fcb_opaque;
	uint16_t refcnt;
};

/* Flags as typed constants: RTE_BIT64 and casts defeat the binding generator. */
#define SLUICE_FLAG(name) static const uint64_t SLUICE_##name = (uint64_t)(RTE_##name)
SLUICE_FLAG(MBUF_F_RX_VLAN);
SLUICE_FLAG(MBUF_F_RX_VLAN_STRIPPED);
SLUICE_FLAG(MBUF_F_RX_QINQ);
SLUICE_FLAG(MBUF_F_RX_QINQ_STRIPPED);
SLUICE_FLAG(MBUF_F_RX_RSS_HASH);
SLUICE_FLAG(MBUF_F_RX_IP_CKSUM_MASK);
SLUICE_FLAG(MBUF_F_RX_IP_CKSUM_BAD);
SLUICE_FLAG(MBUF_F_RX_IP_CKSUM_GOOD);
SLUICE_FLAG(MBUF_F_RX_IP_CKSUM_NONE);
SLUICE_FLAG(MBUF_F_RX_L4_CKSUM_MASK);
SLUICE_FLAG(MBUF_F_RX_L4_CKSUM_BAD);
SLUICE_FLAG(MBUF_F_RX_L4_CKSUM_GOOD);
SLUICE_FLAG(MBUF_F_RX_L4_CKSUM_NONE);
SLUICE_FLAG(MBUF_F_TX_IPV4);
SLUICE_FLAG(MBUF_F_TX_IPV6);
SLUICE_FLAG(MBUF_F_TX_UDP_CKSUM);
SLUICE_FLAG(MBUF_F_TX_L4_MASK);
SLUICE_FLAG(MBUF_F_TX_OFFLOAD_MASK);
SLUICE_FLAG(MBUF_F_EXTERNAL);
SLUICE_FLAG(MBUF_F_INDIRECT);
SLUICE_FLAG(ETH_RX_OFFLOAD_SCATTER);
SLUICE_FLAG(ETH_RX_OFFLOAD_RSS_HASH);
SLUICE_FLAG(ETH_RX_OFFLOAD_IPV4_CKSUM);
SLUICE_FLAG(ETH_RX_OFFLOAD_UDP_CKSUM);
SLUICE_FLAG(ETH_RX_OFFLOAD_TCP_CKSUM);
SLUICE_FLAG(ETH_RX_OFFLOAD_TIMESTAMP);
SLUICE_FLAG(ETH_TX_OFFLOAD_MULTI_SEGS);
SLUICE_FLAG(ETH_TX_OFFLOAD_UDP_CKSUM);
SLUICE_FLAG(ETH_RSS_IP);
SLUICE_FLAG(ETH_RSS_TCP);
SLUICE_FLAG(ETH_RSS_UDP);
SLUICE_FLAG(ETH_RSS_SCTP);
#undef SLUICE_FLAG

static const uint32_t SLUICE_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint32_t SLUICE_MAX_LCORE = RTE_MAX_LCORE;
/* The version of the headers, to compare with the library found at run time: RTE_VERSION_NUM(22, 11, x, y). */
static const uint32_t SLUICE_RTE_VERSION = RTE_VERSION;

/* --- EAL and threads --- */

/* rte_errno of this thread. */
int sluice_rte_errno(void);
/* Makes the thread that called rte_eal_init an ordinary one: it no longer owns the main lcore's caches. */
void sluice_eal_release_main_thread(void);
/* The lcore id of this thread, UINT32_MAX when it has none. */
uint32_t sluice_lcore_id(void);
/* The time stamp counter of this core. */
uint64_t sluice_rdtsc(void);
/* A u16 dynamic mbuf field; its offset, or a negative errno. */
int sluice_dynfield_u16(const char *name);
/* What one thread tells the next about a packet that goes over a ring. */
struct sluice_note {
	uint64_t timestamp_ns;
	uint32_t wire_len;
	uint16_t gso_size;
	uint16_t port;
};
/* A dynamic mbuf field for a struct sluice_note; its offset, or a negative errno. */
int sluice_dynfield_note(const char *name);
/* The dynamic field and flag that drivers put receive time stamps into; 0 or a negative errno. */
int sluice_rx_timestamp_register(int *offset, uint64_t *flag);
/* Removes a device by name; 0 or a negative errno. */
int sluice_dev_remove(const char *name);

/* --- pools and mbufs --- */

/* Creates a pool of packet mbufs. iova_contig = 0 lets mbufs cross page borders, which only software drivers
 * accept. data_room includes the headroom. NULL with rte_errno set on error. */
struct rte_mempool *sluice_pool_create(const char *name, uint32_t mbufs, uint32_t cache, uint16_t data_room,
				       int socket, int iova_contig);
/* Frees the pool when every mbuf is back in it: 1 when freed, 0 when mbufs are out. No other thread may have
 * an lcore id, or allocate from the pool. scratch holds mbufs pointers. */
int sluice_pool_reclaim(struct rte_mempool *pool, void **scratch);
uint32_t sluice_pool_size(const struct rte_mempool *pool);
struct sluice_mbuf *sluice_mbuf_alloc(struct rte_mempool *pool);
/* 0 when all n were given, else none. */
int sluice_mbuf_alloc_bulk(struct rte_mempool *pool, struct sluice_mbuf **mbufs, uint32_t n);
/* Frees a chain from this segment on. */
void sluice_mbuf_free(struct sluice_mbuf *m);
void sluice_mbuf_free_bulk(struct sluice_mbuf **mbufs, uint32_t n);
/* An indirect chain over [off, off + len) of m from pool; NULL when the pool is empty or the range is not in
 * the packet. low_off is the dynamic field where direct mbufs keep the lowest data_off a live view starts at. */
struct sluice_mbuf *sluice_mbuf_share(struct sluice_mbuf *m, uint32_t off, uint32_t len,
				      struct rte_mempool *pool, int low_off);

/* --- rings --- */

struct rte_ring *sluice_ring_create(const char *name, uint32_t size, int multi_producer);
uint32_t sluice_ring_enqueue(struct rte_ring *ring, struct sluice_mbuf *const *mbufs, uint32_t n);
uint32_t sluice_ring_dequeue(struct rte_ring *ring, struct sluice_mbuf **mbufs, uint32_t n);
uint32_t sluice_ring_count(const struct rte_ring *ring);

/* --- ports --- */

struct sluice_port_info {
	char name[64];
	char driver[64];
	uint8_t mac[6];
	uint16_t min_mtu;
	uint16_t max_mtu;
	uint16_t mtu;
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint16_t reta_size;
	uint16_t hash_key_size;
	uint32_t max_rx_pktlen;
	uint32_t if_index;
	int32_t socket;
	uint64_t rx_offload_capa;
	uint64_t tx_offload_capa;
	uint64_t rss_capa;
};

/* Which step of sluice_port_start failed. */
enum sluice_port_step {
	SLUICE_STEP_INFO = 1,
	SLUICE_STEP_CONFIGURE = 2,
	SLUICE_STEP_RX_QUEUE = 3,
	SLUICE_STEP_TX_QUEUE = 4,
	SLUICE_STEP_MTU = 5,
	SLUICE_STEP_START = 6,
	SLUICE_STEP_PROMISCUOUS = 7,
};

struct sluice_port_conf {
	uint16_t rx_queues;
	uint16_t tx_queues;
	uint16_t rx_desc;	/* in: wanted, 0 = the driver's choice; out: used */
	uint16_t tx_desc;	/* the same */
	uint16_t mtu;		/* 0 = leave */
	uint8_t promiscuous;
	uint8_t rx_interrupts;	/* in: wanted; out: enabled */
	uint32_t data_room;	/* of the pool, without headroom */
	int32_t socket;
	uint64_t rx_offloads;	/* in: wanted; out: enabled, those of the driver only */
	uint64_t tx_offloads;	/* the same */
	uint64_t rss_hf;	/* the same; 0 = no RSS */
	const uint8_t *rss_key;	/* NULL = the driver's */
	uint8_t rss_key_len;
	struct rte_mempool *pool;
	enum sluice_port_step failed_step; /* out */
};

struct sluice_port_stats {
	uint64_t ipackets, opackets, ibytes, obytes, imissed, ierrors, oerrors, rx_nombuf;
};

struct sluice_link {
	uint32_t speed_mbps;	/* 0 = unknown */
	uint8_t up;
	uint8_t full_duplex;
};

int sluice_port_info(uint16_t port, struct sluice_port_info *info);
int sluice_port_start(uint16_t port, struct sluice_port_conf *conf);
/* Stops and closes. */
int sluice_port_close(uint16_t port);
int sluice_port_stats(uint16_t port, struct sluice_port_stats *stats);
/* A counter that the driver has beyond these. */
struct sluice_xstat {
	char name[64];		/* NUL-terminated */
	uint64_t value;
};
/* Writes at most `room` of them; returns how many were written, or a negative errno. */
int sluice_port_xstats(uint16_t port, struct sluice_xstat *out, uint32_t room);
/* How a started port spreads packets, as far as its driver tells. */
struct sluice_rss {
	uint64_t hf;		/* SLUICE_ETH_RSS_... that are switched on */
	uint32_t key_len;	/* 0 = the key is not told */
	uint32_t table_len;	/* 0 = the table is not told */
	uint8_t key[64];
	uint16_t table[2048];	/* the queue for each remainder of the hash */
};
int sluice_port_rss(uint16_t port, struct sluice_rss *rss);
int sluice_port_link(uint16_t port, struct sluice_link *link);
/* The clock of the device that stamps what it receives, in its own units: 0 or a negative errno. */
int sluice_port_clock(uint16_t port, uint64_t *ticks);
/* The next port id >= from that has a device, UINT16_MAX at the end. */
uint16_t sluice_port_next(uint16_t from);
uint16_t sluice_rx_burst(uint16_t port, uint16_t queue, struct sluice_mbuf **mbufs, uint16_t n);
uint16_t sluice_tx_burst(uint16_t port, uint16_t queue, struct sluice_mbuf **mbufs, uint16_t n);

/* Receive interrupts of one queue: 0 or a negative errno. add and del tie them to an epoll descriptor. */
int sluice_rx_intr_add(uint16_t port, uint16_t queue, int epfd);
int sluice_rx_intr_del(uint16_t port, uint16_t queue, int epfd);
int sluice_rx_intr_enable(uint16_t port, uint16_t queue);
int sluice_rx_intr_disable(uint16_t port, uint16_t queue);
/* Takes the interrupts that wait at an epoll descriptor, which has no others. */
void sluice_rx_intr_take(int epfd);

#endif
