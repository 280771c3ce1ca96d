/* The static inline part of DPDK as real functions, and the places where its versions differ. */
/* rte_eth_read_clock is marked experimental in 22.11. */
#define ALLOW_EXPERIMENTAL_API
#include <stdlib.h>
#include <string.h>
#include <errno.h>

#include <rte_mbuf_pool_ops.h>

#include "shim.h"

#define SAME(ours, theirs)                                                                                   \
	_Static_assert(offsetof(struct sluice_mbuf, ours) == offsetof(struct rte_mbuf, theirs),               \
		       "struct rte_mbuf of this DPDK has " #theirs " elsewhere: adapt csrc/shim.h")
SAME(buf_addr, buf_addr);
SAME(next, next);
SAME(data_off, data_off);
SAME(refcnt, refcnt);
SAME(nb_segs, nb_segs);
SAME(port, port);
SAME(ol_flags, ol_flags);
SAME(packet_type, packet_type);
SAME(pkt_len, pkt_len);
SAME(data_len, data_len);
SAME(vlan_tci, vlan_tci);
SAME(hash_rss, hash.rss);
SAME(vlan_tci_outer, vlan_tci_outer);
SAME(buf_len, buf_len);
SAME(pool, pool);
SAME(tx_offload, tx_offload);
SAME(shinfo, shinfo);
SAME(priv_size, priv_size);
SAME(dynfield1, dynfield1);
_Static_assert(sizeof(struct sluice_mbuf) == sizeof(struct rte_mbuf), "struct rte_mbuf grew");
_Static_assert(offsetof(struct sluice_ext_shared, refcnt) == offsetof(struct rte_mbuf_ext_shared_info, refcnt),
	       "struct rte_mbuf_ext_shared_info of this DPDK differs: adapt csrc/shim.h");

static inline struct rte_mbuf *real(struct sluice_mbuf *m)
{
	return (struct rte_mbuf *)m;
}

/* --- EAL and threads --- */

int sluice_rte_errno(void)
{
	return rte_errno;
}

void sluice_eal_release_main_thread(void)
{
	RTE_PER_LCORE(_lcore_id) = LCORE_ID_ANY;
}

uint32_t sluice_lcore_id(void)
{
	return rte_lcore_id();
}

uint64_t sluice_rdtsc(void)
{
	return rte_rdtsc();
}

static int dynfield(const char *name, size_t size, size_t align)
{
	struct rte_mbuf_dynfield field = { .size = size, .align = align };
	int offset;

	if (strlen(name) >= sizeof(field.name))
		return -ENAMETOOLONG;
	strcpy(field.name, name);
	offset = rte_mbuf_dynfield_register(&field);
	return offset < 0 ? -rte_errno : offset;
}

int sluice_dynfield_u16(const char *name)
{
	return dynfield(name, sizeof(uint16_t), __alignof__(uint16_t));
}

int sluice_dynfield_note(const char *name)
{
	return dynfield(name, sizeof(struct sluice_note), __alignof__(struct sluice_note));
}

int sluice_rx_timestamp_register(int *offset, uint64_t *flag)
{
	return rte_mbuf_dyn_rx_timestamp_register(offset, flag) == 0 ? 0 : -rte_errno;
}

int sluice_dev_remove(const char *name)
{
	uint16_t port;
	struct rte_eth_dev_info info;
	int ret;

	/* A device by the name of its port, else a virtual device, or a card, without one. */
	if (rte_eth_dev_get_port_by_name(name, &port) != 0) {
		ret = rte_eal_hotplug_remove("vdev", name);
		return ret == 0 ? 0 : rte_eal_hotplug_remove("pci", name);
	}
	ret = rte_eth_dev_info_get(port, &info);
	if (ret != 0)
		return ret;
	if (info.device == NULL)
		return -ENODEV;
	return rte_dev_remove(info.device);
}

/* --- pools and mbufs --- */

struct rte_mempool *sluice_pool_create(const char *name, uint32_t mbufs, uint32_t cache, uint16_t data_room,
				       int socket, int iova_contig)
{
	struct rte_pktmbuf_pool_private priv;
	struct rte_mempool *pool;
	uint32_t elt_size = sizeof(struct rte_mbuf) + data_room;
	int ret;

	if (iova_contig)
		return rte_pktmbuf_pool_create(name, mbufs, cache, 0, data_room, socket);

	/* With 4 KiB pages rte_pktmbuf_pool_create puts one mbuf on a page; nothing here needs contiguous IOVA. */
	pool = rte_mempool_create_empty(name, mbufs, elt_size, cache, sizeof(priv), socket,
					RTE_MEMPOOL_F_NO_IOVA_CONTIG);
	if (pool == NULL)
		return NULL;
	ret = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
	if (ret != 0)
		goto fail;
	memset(&priv, 0, sizeof(priv));
	priv.mbuf_data_room_size = data_room;
	rte_pktmbuf_pool_init(pool, &priv);
	ret = rte_mempool_populate_default(pool);
	if (ret < 0)
		goto fail;
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
fail:
	rte_mempool_free(pool);
	rte_errno = -ret;
	return NULL;
}

int sluice_pool_reclaim(struct rte_mempool *pool, void **scratch)
{
	unsigned int i;

	for (i = 0; i < RTE_MAX_LCORE; i++) {
		struct rte_mempool_cache *cache = rte_mempool_default_cache(pool, i);

		if (cache != NULL)
			rte_mempool_cache_flush(cache, pool);
	}
	/* Taking all of them proves that all are back and that no free is half done. */
	if (rte_mempool_generic_get(pool, scratch, pool->size, NULL) != 0)
		return 0;
	rte_mempool_free(pool);
	return 1;
}

uint32_t sluice_pool_size(const struct rte_mempool *pool)
{
	return pool->size;
}

struct sluice_mbuf *sluice_mbuf_alloc(struct rte_mempool *pool)
{
	return (struct sluice_mbuf *)rte_pktmbuf_alloc(pool);
}

int sluice_mbuf_alloc_bulk(struct rte_mempool *pool, struct sluice_mbuf **mbufs, uint32_t n)
{
	return rte_pktmbuf_alloc_bulk(pool, (struct rte_mbuf **)mbufs, n);
}

void sluice_mbuf_free(struct sluice_mbuf *m)
{
	rte_pktmbuf_free(real(m));
}

void sluice_mbuf_free_bulk(struct sluice_mbuf **mbufs, uint32_t n)
{
	rte_pktmbuf_free_bulk((struct rte_mbuf **)mbufs, n);
}

/* Attaches view to the data of m, and lowers the mark below which the owner of the data may still write. */
static inline void attach_view(struct rte_mbuf *view, struct rte_mbuf *m, uint32_t off, uint32_t len, int low_off)
{
	uint16_t start = (uint16_t)(m->data_off + off);

	if (RTE_MBUF_DIRECT(m)) {
		uint16_t *low = RTE_MBUF_DYNFIELD(m, low_off, uint16_t *);

		/* Only the owner of m can take the count from 1: then no view is alive and the mark is stale. */
		if (rte_mbuf_refcnt_read(m) == 1 || start < *low)
			*low = start;
	}
	rte_pktmbuf_attach(view, m);
	view->ol_flags &= ~RTE_MBUF_F_TX_OFFLOAD_MASK;
	view->tx_offload = 0;
	view->data_off = start;
	view->data_len = (uint16_t)len;
}

struct sluice_mbuf *sluice_mbuf_share(struct sluice_mbuf *mbuf, uint32_t off, uint32_t len,
				      struct rte_mempool *pool, int low_off)
{
	struct rte_mbuf *m = real(mbuf), *head = NULL, *last = NULL;
	uint32_t total = len;
	uint16_t segs = 0;

	if (off > m->pkt_len || len > m->pkt_len - off)
		return NULL;
	while (off >= m->data_len && m->next != NULL) {
		off -= m->data_len;
		m = m->next;
	}
	do {
		struct rte_mbuf *view = rte_pktmbuf_alloc(pool);
		uint32_t part;

		if (view == NULL) {
			rte_pktmbuf_free(head);
			return NULL;
		}
		part = RTE_MIN(len, m->data_len - off);
		attach_view(view, m, off, part, low_off);
		if (head == NULL) {
			head = view;
			/* Metadata of the packet is in its first segment. */
			head->port = real(mbuf)->port;
			head->vlan_tci = real(mbuf)->vlan_tci;
			head->vlan_tci_outer = real(mbuf)->vlan_tci_outer;
			head->hash = real(mbuf)->hash;
			head->packet_type = real(mbuf)->packet_type;
			head->ol_flags |= real(mbuf)->ol_flags &
				~(RTE_MBUF_F_TX_OFFLOAD_MASK | RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL);
		} else {
			last->next = view;
		}
		last = view;
		segs++;
		len -= part;
		off = 0;
		do {
			m = m->next;
		} while (m != NULL && m->data_len == 0);
	} while (len != 0 && m != NULL);
	head->nb_segs = segs;
	head->pkt_len = total - len;
	return (struct sluice_mbuf *)head;
}

/* --- rings --- */

struct rte_ring *sluice_ring_create(const char *name, uint32_t size, int multi_producer)
{
	unsigned int flags = RING_F_SC_DEQ | RING_F_EXACT_SZ;

	if (!multi_producer)
		flags |= RING_F_SP_ENQ;
	return rte_ring_create(name, size, SOCKET_ID_ANY, flags);
}

uint32_t sluice_ring_enqueue(struct rte_ring *ring, struct sluice_mbuf *const *mbufs, uint32_t n)
{
	return rte_ring_enqueue_burst(ring, (void *const *)mbufs, n, NULL);
}

uint32_t sluice_ring_dequeue(struct rte_ring *ring, struct sluice_mbuf **mbufs, uint32_t n)
{
	return rte_ring_dequeue_burst(ring, (void **)mbufs, n, NULL);
}

uint32_t sluice_ring_count(const struct rte_ring *ring)
{
	return rte_ring_count(ring);
}

/* --- ports --- */

/* Bytes of the RSS hash key. Virtual devices with RSS may leave it open: then it is that of the Toeplitz hash. */
static uint8_t key_size(const struct rte_eth_dev_info *dev)
{
	return dev->hash_key_size == 0 && dev->flow_type_rss_offloads != 0 ? 40 : dev->hash_key_size;
}

int sluice_port_info(uint16_t port, struct sluice_port_info *info)
{
	struct rte_eth_dev_info dev;
	struct rte_ether_addr mac;
	int ret;

	memset(info, 0, sizeof(*info));
	ret = rte_eth_dev_info_get(port, &dev);
	if (ret != 0)
		return ret;
	if (rte_eth_dev_get_name_by_port(port, info->name) != 0)
		return -ENODEV;
	if (dev.driver_name != NULL)
		strncpy(info->driver, dev.driver_name, sizeof(info->driver) - 1);
	if (rte_eth_macaddr_get(port, &mac) == 0)
		memcpy(info->mac, mac.addr_bytes, sizeof(info->mac));
	(void)rte_eth_dev_get_mtu(port, &info->mtu);
	info->min_mtu = dev.min_mtu;
	info->max_mtu = dev.max_mtu;
	info->max_rx_queues = dev.max_rx_queues;
	info->max_tx_queues = dev.max_tx_queues;
	info->reta_size = dev.reta_size;
	info->hash_key_size = key_size(&dev);
	info->max_rx_pktlen = dev.max_rx_pktlen;
	info->if_index = dev.if_index;
	info->socket = rte_eth_dev_socket_id(port);
	info->rx_offload_capa = dev.rx_offload_capa;
	info->tx_offload_capa = dev.tx_offload_capa;
	info->rss_capa = dev.flow_type_rss_offloads;
	return 0;
}

/* Sets key and table once more: some drivers take neither when they are configured. Who needs to know whether it
 * worked reads them back. */
static void port_rss(uint16_t port, const struct sluice_port_conf *conf, const struct rte_eth_dev_info *dev)
{
	struct rte_eth_rss_reta_entry64 reta[2048 / RTE_ETH_RETA_GROUP_SIZE];
	struct rte_eth_rss_conf rss = { .rss_hf = conf->rss_hf };
	uint16_t i;

	if (conf->rss_key != NULL && conf->rss_key_len != 0 && conf->rss_key_len == key_size(dev)) {
		rss.rss_key = (uint8_t *)(uintptr_t)conf->rss_key;
		rss.rss_key_len = conf->rss_key_len;
		(void)rte_eth_dev_rss_hash_update(port, &rss);
	}
	if (dev->reta_size == 0 || dev->reta_size > RTE_DIM(reta) * RTE_ETH_RETA_GROUP_SIZE)
		return;
	memset(reta, 0, sizeof(reta));
	for (i = 0; i < dev->reta_size; i++) {
		reta[i / RTE_ETH_RETA_GROUP_SIZE].mask |= UINT64_C(1) << (i % RTE_ETH_RETA_GROUP_SIZE);
		reta[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE] = i % conf->rx_queues;
	}
	(void)rte_eth_dev_rss_reta_update(port, reta, dev->reta_size);
}

static int port_start(uint16_t port, struct sluice_port_conf *conf)
{
	struct rte_eth_conf dev_conf;
	struct rte_eth_dev_info dev;
	struct rte_eth_rxconf rxconf;
	struct rte_eth_txconf txconf;
	uint16_t q;
	int ret;

	conf->failed_step = SLUICE_STEP_INFO;
	ret = rte_eth_dev_info_get(port, &dev);
	if (ret != 0)
		return ret;

	conf->failed_step = SLUICE_STEP_CONFIGURE;
	memset(&dev_conf, 0, sizeof(dev_conf));
	conf->rx_offloads &= dev.rx_offload_capa;
	conf->tx_offloads &= dev.tx_offload_capa;
	conf->rss_hf &= dev.flow_type_rss_offloads;
	if (conf->mtu != 0)
		dev_conf.rxmode.mtu = conf->mtu;
	dev_conf.intr_conf.rxq = conf->rx_interrupts;
	dev_conf.rxmode.offloads = conf->rx_offloads;
	dev_conf.txmode.offloads = conf->tx_offloads;
	if (conf->rx_queues > 1 && conf->rss_hf != 0) {
		dev_conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		dev_conf.rx_adv_conf.rss_conf.rss_hf = conf->rss_hf;
		if (conf->rss_key != NULL && conf->rss_key_len == key_size(&dev)) {
			dev_conf.rx_adv_conf.rss_conf.rss_key = (uint8_t *)(uintptr_t)conf->rss_key;
			dev_conf.rx_adv_conf.rss_conf.rss_key_len = conf->rss_key_len;
		}
	} else {
		conf->rss_hf = 0;
	}
	ret = rte_eth_dev_configure(port, conf->rx_queues, conf->tx_queues, &dev_conf);
	if (ret != 0)
		return ret;

	if (conf->rx_desc == 0)
		conf->rx_desc = dev.default_rxportconf.ring_size != 0 ? dev.default_rxportconf.ring_size : 1024;
	if (conf->tx_desc == 0)
		conf->tx_desc = dev.default_txportconf.ring_size != 0 ? dev.default_txportconf.ring_size : 1024;
	ret = rte_eth_dev_adjust_nb_rx_tx_desc(port, &conf->rx_desc, &conf->tx_desc);
	if (ret != 0)
		return ret;

	conf->failed_step = SLUICE_STEP_RX_QUEUE;
	rxconf = dev.default_rxconf;
	rxconf.offloads = conf->rx_offloads;
	for (q = 0; q < conf->rx_queues; q++) {
		ret = rte_eth_rx_queue_setup(port, q, conf->rx_desc, (unsigned int)conf->socket, &rxconf, conf->pool);
		if (ret != 0)
			return ret;
	}

	conf->failed_step = SLUICE_STEP_TX_QUEUE;
	txconf = dev.default_txconf;
	txconf.offloads = conf->tx_offloads;
	for (q = 0; q < conf->tx_queues; q++) {
		ret = rte_eth_tx_queue_setup(port, q, conf->tx_desc, (unsigned int)conf->socket, &txconf);
		if (ret != 0)
			return ret;
	}

	conf->failed_step = SLUICE_STEP_MTU;
	if (conf->mtu != 0) {
		uint16_t mtu = 0;

		/* Configuring sets it on most drivers; some only know the explicit call, some neither. */
		(void)rte_eth_dev_get_mtu(port, &mtu);
		ret = mtu == conf->mtu ? 0 : rte_eth_dev_set_mtu(port, conf->mtu);
		if (ret != 0 && ret != -ENOTSUP)
			return ret;
	}

	conf->failed_step = SLUICE_STEP_START;
	ret = rte_eth_dev_start(port);
	if (ret != 0)
		return ret;

	if (conf->rss_hf != 0)
		port_rss(port, conf, &dev);
	/* A clock for PTP can be read only after this; drivers without one have nothing to switch on. */
	if (conf->rx_offloads & RTE_ETH_RX_OFFLOAD_TIMESTAMP)
		(void)rte_eth_timesync_enable(port);

	conf->failed_step = SLUICE_STEP_PROMISCUOUS;
	if (conf->promiscuous) {
		ret = rte_eth_promiscuous_enable(port);
		/* Drivers without address filters do not offer it. */
		if (ret != 0 && ret != -ENOTSUP)
			return ret;
	}
	conf->failed_step = 0;
	return 0;
}

int sluice_port_start(uint16_t port, struct sluice_port_conf *conf)
{
	struct sluice_port_conf wanted = *conf;
	int ret = port_start(port, conf);

	if (ret == 0 || !wanted.rx_interrupts)
		return ret;
	/* Drivers say so in many ways when they have no receive interrupts: without, then. */
	(void)rte_eth_dev_stop(port);
	*conf = wanted;
	conf->rx_interrupts = 0;
	return port_start(port, conf);
}

int sluice_port_close(uint16_t port)
{
	if (!rte_eth_dev_is_valid_port(port))
		return -ENODEV;
	(void)rte_eth_dev_stop(port);
	return rte_eth_dev_close(port);
}

int sluice_port_stats(uint16_t port, struct sluice_port_stats *stats)
{
	struct rte_eth_stats s;
	int ret = rte_eth_stats_get(port, &s);

	if (ret != 0)
		return ret;
	stats->ipackets = s.ipackets;
	stats->opackets = s.opackets;
	stats->ibytes = s.ibytes;
	stats->obytes = s.obytes;
	stats->imissed = s.imissed;
	stats->ierrors = s.ierrors;
	stats->oerrors = s.oerrors;
	stats->rx_nombuf = s.rx_nombuf;
	return 0;
}

int sluice_port_xstats(uint16_t port, struct sluice_xstat *out, uint32_t room)
{
	struct rte_eth_xstat_name *names;
	struct rte_eth_xstat *values;
	uint32_t written = 0;
	int count, named, read;

	count = rte_eth_xstats_get_names(port, NULL, 0);
	if (count <= 0)
		return count;
	names = calloc(count, sizeof(*names));
	values = calloc(count, sizeof(*values));
	if (names == NULL || values == NULL) {
		read = -ENOMEM;
		goto out;
	}
	named = rte_eth_xstats_get_names(port, names, count);
	read = rte_eth_xstats_get(port, values, count);
	/* More than there is room for: the driver has more now than a moment ago, and wrote nothing. */
	if (named < 0 || named > count || read > count)
		read = named < 0 ? named : 0;
	for (int i = 0; i < read && written < room; i++) {
		if (values[i].id >= (uint64_t)named)
			continue;
		memset(&out[written], 0, sizeof(out[written]));
		memcpy(out[written].name, names[values[i].id].name, sizeof(out[written].name) - 1);
		out[written++].value = values[i].value;
	}
out:
	free(names);
	free(values);
	return read < 0 ? read : (int)written;
}

int sluice_port_rss(uint16_t port, struct sluice_rss *rss)
{
	struct rte_eth_rss_reta_entry64 reta[RTE_DIM(rss->table) / RTE_ETH_RETA_GROUP_SIZE];
	struct rte_eth_rss_conf conf;
	struct rte_eth_dev_info dev;
	uint16_t i;
	int ret;

	memset(rss, 0, sizeof(*rss));
	ret = rte_eth_dev_info_get(port, &dev);
	if (ret != 0)
		return ret;
	memset(&conf, 0, sizeof(conf));
	if (key_size(&dev) <= sizeof(rss->key)) {
		conf.rss_key = rss->key;
		conf.rss_key_len = key_size(&dev);
	}
	ret = rte_eth_dev_rss_hash_conf_get(port, &conf);
	if (ret != 0)
		return ret;
	rss->hf = conf.rss_hf;
	for (i = 0; i < key_size(&dev) && i < sizeof(rss->key); i++) {
		/* A driver that cannot read its key back leaves the zeros. */
		if (rss->key[i] != 0)
			rss->key_len = key_size(&dev);
	}
	if (dev.reta_size == 0 || dev.reta_size > RTE_DIM(rss->table))
		return 0;
	memset(reta, 0, sizeof(reta));
	for (i = 0; i < RTE_DIM(reta); i++)
		reta[i].mask = UINT64_MAX;
	if (rte_eth_dev_rss_reta_query(port, reta, dev.reta_size) != 0)
		return 0;
	rss->table_len = dev.reta_size;
	for (i = 0; i < dev.reta_size; i++)
		rss->table[i] = reta[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE];
	return 0;
}

int sluice_port_clock(uint16_t port, uint64_t *ticks)
{
	struct timespec time;
	int ret = rte_eth_timesync_read_time(port, &time);

	/* Drivers with a clock for PTP stamp in nanoseconds of that one, even where rte_eth_read_clock reads another. */
	if (ret == -ENOTSUP)
		return rte_eth_read_clock(port, ticks);
	if (ret == 0)
		*ticks = (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
	return ret;
}

int sluice_port_link(uint16_t port, struct sluice_link *out)
{
	struct rte_eth_link link;
	int ret;

	memset(&link, 0, sizeof(link));
	ret = rte_eth_link_get_nowait(port, &link);
	if (ret != 0)
		return ret;
	out->up = link.link_status == RTE_ETH_LINK_UP;
	out->full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	out->speed_mbps = link.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN ? 0 : link.link_speed;
	return 0;
}

uint16_t sluice_port_next(uint16_t from)
{
	uint64_t port = rte_eth_find_next(from);

	return port >= RTE_MAX_ETHPORTS ? UINT16_MAX : (uint16_t)port;
}

uint16_t sluice_rx_burst(uint16_t port, uint16_t queue, struct sluice_mbuf **mbufs, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, (struct rte_mbuf **)mbufs, n);
}

uint16_t sluice_tx_burst(uint16_t port, uint16_t queue, struct sluice_mbuf **mbufs, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, (struct rte_mbuf **)mbufs, n);
}

int sluice_rx_intr_add(uint16_t port, uint16_t queue, int epfd)
{
	return rte_eth_dev_rx_intr_ctl_q(port, queue, epfd, RTE_INTR_EVENT_ADD, NULL);
}

int sluice_rx_intr_del(uint16_t port, uint16_t queue, int epfd)
{
	return rte_eth_dev_rx_intr_ctl_q(port, queue, epfd, RTE_INTR_EVENT_DEL, NULL);
}

int sluice_rx_intr_enable(uint16_t port, uint16_t queue)
{
	return rte_eth_dev_rx_intr_enable(port, queue);
}

int sluice_rx_intr_disable(uint16_t port, uint16_t queue)
{
	return rte_eth_dev_rx_intr_disable(port, queue);
}

void sluice_rx_intr_take(int epfd)
{
	struct rte_epoll_event events[16];

	(void)rte_epoll_wait(epfd, events, RTE_DIM(events), 0);
}
