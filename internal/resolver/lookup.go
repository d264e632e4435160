package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// maxChain is how many aliases (CNAME) lead to an address at most.
const maxChain = 8

// lookup finds a name's addresses of one type, A or AAAA. An answer without addresses means
// that there are none; an error, that nobody said.
func (e *exchanger) lookup(ctx context.Context, name string, qtype uint16) (answer, error) {
	w := walk{at: canonical(name), qtype: qtype, ttl: MaxTTL}
	for w.steps <= maxChain {
		asked := w.at
		reply, err := e.ask(ctx, asked, qtype, false)
		if err != nil {
			return answer{}, err
		}
		if err := w.follow(reply.Answer); err != nil {
			return answer{}, err
		}
		if len(w.addrs) > 0 || w.at == asked || reply.Rcode == dns.RcodeNameError {
			break // found, or there is nothing, or the end of the chain is missing
		}
		w.steps++ // the server stopped in the middle of the chain
	}
	if w.steps > maxChain {
		return answer{}, errChain
	}
	if len(w.addrs) == 0 {
		return answer{ttl: noTTL}, nil
	}
	return answer{addrs: w.addrs, ttl: w.ttl}, nil
}

var errChain = fmt.Errorf("more than %d aliases, or aliases in a circle", maxChain)

// walk follows aliases through answers. Records of other names are passed over, wherever
// they stand.
type walk struct {
	at    string // where the chain leads by now
	qtype uint16
	steps int
	ttl   time.Duration // smallest of all on the way
	addrs []netip.Addr
}

func (w *walk) follow(records []dns.RR) error {
	for {
		next, err := w.step(records)
		if err != nil {
			return err
		}
		if next == "" {
			return nil
		}
		w.at = next
		if w.steps++; w.steps > maxChain {
			return errChain
		}
	}
}

// step collects the addresses at the present name, or returns the name it is an alias of.
func (w *walk) step(records []dns.RR) (next string, err error) {
	for _, rr := range records {
		h := rr.Header()
		if h.Class != dns.ClassINET || canonical(h.Name) != w.at {
			continue
		}
		switch r := rr.(type) {
		case *dns.CNAME:
			if next != "" && next != canonical(r.Target) {
				return "", errors.New("one name with two aliases")
			}
			next = canonical(r.Target)
		case *dns.A:
			w.take(h, r.A)
			continue
		case *dns.AAAA:
			w.take(h, r.AAAA)
			continue
		default:
			continue
		}
		w.note(h)
	}
	if len(w.addrs) > 0 {
		return "", nil
	}
	return next, nil
}

func (w *walk) take(h *dns.RR_Header, ip []byte) {
	a, ok := netip.AddrFromSlice(ip)
	if w.qtype == dns.TypeA {
		a = a.Unmap() // the library keeps IPv4 in 16 bytes
	}
	if ok && h.Rrtype == w.qtype {
		w.addrs = append(w.addrs, a)
		w.note(h)
	}
}

// note takes a record's TTL in. One with the highest bit set is zero (RFC 2181, section 8).
func (w *walk) note(h *dns.RR_Header) {
	ttl := h.Ttl
	if ttl>>31 == 1 {
		ttl = 0
	}
	w.ttl = min(w.ttl, time.Duration(ttl)*time.Second)
}

// canonical is a name as it is compared: lower case, no final dot.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
