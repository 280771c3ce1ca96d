//! Capture files: pcap and pcapng in, pcap out.
