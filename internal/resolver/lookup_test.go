package resolver

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzLookup: whatever a server sends, no more is kept than is bounded, and every address
// is of the type that was asked for.
func FuzzLookup(f *testing.F) {
	for _, m := range []*dns.Msg{
		reply(ask(dns.TypeA), a(60, "9.9.9.9"), mdm+". 60 IN CNAME b.example.")[0], reply(ask(dns.TypeAAAA), aaaa(0, "::ffff:10.0.0.1"))[0],
		reply(ask(dns.TypeA), mdm+". 60 IN CNAME "+mdm+".")[0],
	} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		m := new(dns.Msg)
		if m.Unpack(message) != nil {
			return
		}
		for _, qtype := range types {
			answers(m, ask(qtype), true)
			w := walk{at: mdm, qtype: qtype, ttl: MaxTTL}
			if err := w.follow(m.Answer); err != nil {
				continue
			}
			for _, addr := range w.addrs {
				if addr.Is4() != (qtype == dns.TypeA) || w.ttl < 0 || w.ttl > MaxTTL {
					t.Fatalf("%s for %s, %s", addr, dns.TypeToString[qtype], w.ttl)
				}
			}
			var fam family
			fam.take(answer{w.addrs, w.ttl}, time.Now(), times{DefaultGrace, DefaultStale})
			if len(fam.pins) > maxPins || fam.due.Before(time.Now().Add(time.Second)) {
				t.Fatalf("%d addresses, due %s", len(fam.pins), fam.due)
			}
		}
	})
}

func ask(qtype uint16) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(mdm+".", qtype)
	return q
}
