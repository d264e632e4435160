package tunnel

import (
	"net/netip"
	"strconv"
	"time"
)

// parsePeerLine takes one line of a peer; unknown names are passed over.
func parsePeerLine(s *PeerStatus, name, value string) (err error) {
	var n uint64
	switch name {
	case "endpoint":
		s.Endpoint, err = netip.ParseAddrPort(value)
	case "allowed_ip":
		var p netip.Prefix
		p, err = netip.ParsePrefix(value)
		s.AllowedIPs = append(s.AllowedIPs, p)
	case "rx_bytes":
		s.Received, err = strconv.ParseUint(value, 10, 64)
	case "tx_bytes":
		s.Sent, err = strconv.ParseUint(value, 10, 64)
	case "persistent_keepalive_interval":
		n, err = strconv.ParseUint(value, 10, 16)
		s.KeepAlive = time.Duration(n) * time.Second
	case "last_handshake_time_sec":
		n, err = strconv.ParseUint(value, 10, 62)
		if n != 0 {
			s.LastHandshake = time.Unix(int64(n), 0)
		}
	case "last_handshake_time_nsec":
		n, err = strconv.ParseUint(value, 10, 30)
		if n != 0 || !s.LastHandshake.IsZero() {
			s.LastHandshake = s.LastHandshake.Add(time.Duration(n))
		}
	}
	return err
}
