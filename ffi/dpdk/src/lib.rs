//! Safe owners over DPDK: EAL, mempools, mbufs, ports, queues, rings.
