package resolver

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"lazaret/quarantine"
)

const at = mdm + ". %d IN %s %s"

func a(ttl int, addr string) string { return fmt.Sprintf(at, ttl, "A", addr) }
func aaaa(ttl int, addr string) string {
	return fmt.Sprintf(at, ttl, "AAAA", addr)
}

// TestTTLs: an address is asked for again when its TTL is over, but not before a minute
// nor after a day.
func TestTTLs(t *testing.T) {
	for _, c := range []struct {
		ttl  int
		next time.Duration
	}{{0, time.Minute}, {1, time.Minute}, {60, time.Minute}, {61, 61 * time.Second}, {300, 5 * time.Minute}, {86400, 24 * time.Hour}, {86401, 24 * time.Hour}, {1<<31 - 1, 24 * time.Hour}} {
		bubble(t, records(a(c.ttl, "9.9.9.9"), aaaa(c.ttl, "2a01::9")), func(l *lab) {
			l.want("at first", "9.9.9.9 2a01::9")
			l.up.questions()
			time.Sleep(c.next - time.Millisecond)
			synctest.Wait()
			if early := about(mdm, l.up.questions()); len(early) > 0 {
				t.Errorf("TTL %d: asked too early: %v", c.ttl, early)
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			got := about(mdm, l.up.questions())
			slices.Sort(got)
			if !slices.Equal(got, []string{"udp mdm.example.com. A", "udp mdm.example.com. AAAA"}) {
				t.Errorf("TTL %d: after %s asked %v", c.ttl, c.next, got)
			}
			l.want("then", "9.9.9.9 2a01::9")
		})
	}
	bubble(t, func(_ string, q *dns.Msg) []*dns.Msg { // the highest bit set counts as zero
		m := reply(q, a(5, "9.9.9.9"))
		for _, rr := range m[0].Answer {
			rr.Header().Ttl = 1<<31 + 5
		}
		return m
	}, func(l *lab) {
		l.up.questions()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(about(mdm, l.up.questions())) == 0 {
			t.Error("a TTL with the highest bit set was taken for a long one")
		}
	})
}

// TestRotation: what left the answer stays for the grace, to the second, and no longer; what
// comes is open at once.
func TestRotation(t *testing.T) {
	bubble(t, records(a(300, "9.9.9.1"), a(300, "9.9.9.2")), func(l *lab) {
		l.want("at first", "9.9.9.1 9.9.9.2")
		time.Sleep(time.Minute)
		l.up.set(records(a(300, "9.9.9.2"), a(300, "9.9.9.3")))
		l.want("not asked yet", "9.9.9.1 9.9.9.2")
		time.Sleep(4 * time.Minute)
		l.want("rotated", "9.9.9.1 9.9.9.2 9.9.9.3")
		time.Sleep(time.Hour - time.Second) // from the end of the TTL, at which it was asked again
		l.want("at the end of the grace", "9.9.9.1 9.9.9.2 9.9.9.3")
		time.Sleep(time.Second)
		l.want("after the grace", "9.9.9.2 9.9.9.3")
		k, ok := l.Look(mdm)
		if !ok || len(k.Pins) != 2 || !k.Pins[0].Current || k.Problem != "" || k.Answered.IsZero() {
			t.Errorf("looks like %+v", k)
		}
		l.up.set(records(a(300, "9.9.9.1"), a(300, "9.9.9.3")))
		time.Sleep(5 * time.Minute)
		l.want("rotated back", "9.9.9.1 9.9.9.2 9.9.9.3")
	})
}

// TestRebinding: a name that comes to lead into the intranet opens nothing there, however
// the answer is dressed up; the good addresses beside it stay. The log tells each once.
func TestRebinding(t *testing.T) {
	bubble(t, records(a(0, "9.9.9.9")), func(l *lab) {
		l.want("at first", "9.9.9.9")
		l.up.set(records(a(0, "10.10.0.10"), a(0, "127.0.0.1"), a(0, "169.254.169.254"), a(0, "10.66.0.2"), a(0, "9.9.9.8"),
			aaaa(0, "::ffff:10.10.0.10"), aaaa(0, "64:ff9b::10.10.0.10"), aaaa(0, "fd00::1"), aaaa(0, "2002:a0a:a::1"), aaaa(0, "::1")))
		time.Sleep(6 * time.Minute) // IPv6, where there was nothing, is asked for less often
		l.want("rebound", "9.9.9.8 9.9.9.9")
		for _, bad := range []string{"10.10.0.10 is not", "127.0.0.1 leads", "169.254.169.254 leads", "10.66.0.2 leads", "::ffff:10.10.0.10 is no", "64:ff9b::a0a:a stands", "fd00::1 is not", "2002:a0a:a::1 is not", "::1 leads"} {
			if n := strings.Count(l.log.String(), `error="`+bad); n != 1 {
				t.Errorf("the log tells %d times that %s ...:\n%s", n, bad, l.log)
			}
		}
		l.up.set(records(a(0, "10.10.0.10")))
		time.Sleep(30 * time.Minute)
		l.want("rebound whole, in the grace", "9.9.9.8 9.9.9.9")
		time.Sleep(40 * time.Minute)
		l.want("rebound whole", "")
		if n := strings.Count(l.log.String(), `error="10.10.0.10 is not public`); n != 1 {
			t.Errorf("the log tells of the address %d times:\n%s", n, l.log)
		}
		if k, _ := l.Look(mdm); len(k.Pins) == 0 || k.Pins[0].Addr.String() != "10.10.0.10" {
			t.Errorf("what is refused cannot be shown: %+v", k)
		}
		pools, _ := l.gate.Pools()
		p := pools["quarantine"]
		p.Allow = []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24")}
		l.gate.setPools(map[string]quarantine.Pool{"quarantine": p})
		l.want("allowed", "10.10.0.10")
	})
}

// TestOutage: while nobody answers, addresses stay until they are stale.
func TestOutage(t *testing.T) {
	for what, broken := range map[string]func(string, *dns.Msg) []*dns.Msg{
		"silence": silence, "failure": code(dns.RcodeServerFailure), "refusal": code(dns.RcodeRefused),
		"aliases in a circle": records(mdm+". 60 IN CNAME b.example.", "b.example. 60 IN CNAME "+mdm+"."),
	} {
		bubble(t, records(a(300, "9.9.9.9")), func(l *lab) {
			l.up.set(broken)
			time.Sleep(5*time.Minute + 24*time.Hour - time.Second)
			l.want(what, "9.9.9.9")
			if k, _ := l.Look(mdm); k.Problem == "" {
				t.Errorf("%s: no problem is told", what)
			}
			time.Sleep(time.Second)
			l.want(what+", stale", "")
			asked := len(about(mdm, l.up.questions()))
			if most := 2 * 2 * 2 * 25 * 60; asked > most { // two tries, by TCP perhaps, two families, once a minute
				t.Errorf("%s: asked %d times in a day", what, asked)
			}
			l.up.set(records(a(300, "9.9.9.7")))
			time.Sleep(2 * time.Minute)
			l.want(what+", over", "9.9.9.7")
		})
	}
}

// TestGone: a name that the servers say is no more closes after the grace.
func TestGone(t *testing.T) {
	for what, gone := range map[string]func(string, *dns.Msg) []*dns.Msg{"no such name": code(dns.RcodeNameError), "no address": records()} {
		bubble(t, records(a(300, "9.9.9.9")), func(l *lab) {
			l.up.set(gone)
			time.Sleep(5*time.Minute + time.Hour - time.Second)
			l.want(what, "9.9.9.9")
			time.Sleep(time.Second)
			l.want(what+", over", "")
		})
	}
}

// TestChains follows aliases, as far as they go.
func TestChains(t *testing.T) {
	chain := func(n int) []string {
		list := []string{fmt.Sprintf("c%d.example. 60 IN A 9.9.9.9", n), "other.example. 60 IN A 9.9.9.66"}
		for i := n; i > 1; i-- {
			list = append(list, fmt.Sprintf("c%d.example. 60 IN CNAME C%d.example.", i-1, i)) // in any order and case
		}
		return append(list, mdm+". 60 IN CNAME c1.example.")
	}
	for _, c := range []struct {
		what    string
		records []string
		want    string
	}{
		{"one alias", chain(1), "9.9.9.9"},
		{"eight aliases", chain(8), "9.9.9.9"},
		{"nine aliases", chain(9), ""},
		{"addresses of others", []string{"other.example. 60 IN A 9.9.9.66"}, ""},
		{"two aliases of one name", []string{mdm + ". 60 IN CNAME a.example.", mdm + ". 60 IN CNAME b.example.", "a.example. 60 IN A 9.9.9.9"}, ""},
		{"itself", []string{mdm + ". 60 IN CNAME " + mdm + "."}, ""},
	} {
		bubble(t, records(c.records...), func(l *lab) { l.want(c.what, c.want) })
	}
	bubble(t, func(_ string, q *dns.Msg) []*dns.Msg { // a server that goes one step at a time
		name := strings.ToLower(q.Question[0].Name)
		for i, step := range []string{mdm + ".", "c1.example.", "c2.example."} {
			if name == step && i < 2 {
				return reply(q, fmt.Sprintf("%s 60 IN CNAME c%d.example.", name, i+1))
			}
		}
		return reply(q, "c2.example. 60 IN A 9.9.9.9")
	}, func(l *lab) { l.want("step by step", "9.9.9.9") })
	bubble(t, func(_ string, q *dns.Msg) []*dns.Msg { // and one that never arrives
		name := strings.ToLower(q.Question[0].Name)
		return reply(q, name+" 60 IN CNAME x."+name)
	}, func(l *lab) {
		l.want("for ever", "")
		if n := len(about(mdm, l.up.questions())); n > 2*(maxChain+2) {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestForgery: an answer counts only if it matches its question in every bit, and a forged
// one does not keep the true one out.
func TestForgery(t *testing.T) {
	forge := map[string]func(*dns.Msg){
		"another number":   func(m *dns.Msg) { m.Id++ },
		"another name":     func(m *dns.Msg) { m.Question[0].Name = "evil.example." },
		"another type":     func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT },
		"another class":    func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"no question":      func(m *dns.Msg) { m.Question = nil },
		"two questions":    func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		"a question":       func(m *dns.Msg) { m.Response = false },
		"other letters":    func(m *dns.Msg) { m.Question[0].Name = swapCase(m.Question[0].Name) },
		"another opcode":   func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate },
		"an unknown error": func(m *dns.Msg) { m.Rcode = dns.RcodeNotZone; m.Id++ },
	}
	for what, spoil := range forge {
		forged := func(q *dns.Msg) *dns.Msg {
			m := reply(q, a(60, "9.9.9.66"))[0]
			spoil(m)
			return m
		}
		bubble(t, func(network string, q *dns.Msg) []*dns.Msg {
			if network == "udp" {
				return append([]*dns.Msg{forged(q)}, reply(q, a(60, "9.9.9.9"))...)
			}
			return nil
		}, func(l *lab) { l.want(what+" before the true answer", "9.9.9.9") })
		bubble(t, func(network string, q *dns.Msg) []*dns.Msg {
			if network == "udp" {
				return []*dns.Msg{forged(q)}
			}
			return reply(q, a(60, "9.9.9.9"))
		}, func(l *lab) {
			time.Sleep(2 * tryTime)
			l.want(what+" alone", "9.9.9.9") // asked again where nobody can forge
		})
	}
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r - 32
		} else if r >= 'A' && r <= 'Z' {
			return r + 32
		}
		return r
	}, s)
}

// TestTruncated: an answer that was cut off is had by TCP.
func TestTruncated(t *testing.T) {
	bubble(t, func(network string, q *dns.Msg) []*dns.Msg {
		if network == "udp" {
			m := reply(q, a(60, "9.9.9.66"))
			m[0].Truncated = true
			return m
		}
		return reply(q, a(60, "9.9.9.9"))
	}, func(l *lab) {
		l.want("cut off", "9.9.9.9")
		if got := l.up.questions(); !slices.Contains(got, "tcp mdm.example.com. A") {
			t.Errorf("asked %v", got)
		}
	})
}

// TestManyAddresses: an answer without measure is bounded, and always in the same way.
func TestManyAddresses(t *testing.T) {
	var all []string
	for i := range 200 {
		all = append(all, a(60, fmt.Sprintf("9.9.%d.%d", 200-i, i)))
	}
	large := func(all []string) func(string, *dns.Msg) []*dns.Msg {
		return func(network string, q *dns.Msg) []*dns.Msg {
			if network == "udp" {
				m := reply(q)
				m[0].Truncated = true
				return m
			}
			return reply(q, all...)
		}
	}
	bubble(t, large(all), func(l *lab) {
		var want []string
		for i := range quarantine.MaxPinned { // the lowest
			want = append(want, fmt.Sprintf("9.9.%d.%d", i+1, 199-i))
		}
		l.want("many", strings.Join(want, " "))
		if k, _ := l.Look(mdm); len(k.Pins) != maxPins {
			t.Errorf("%d are kept", len(k.Pins))
		}
		turned := slices.Clone(all)
		slices.Reverse(turned)
		l.up.set(large(turned))
		time.Sleep(time.Minute)
		l.want("in another order", strings.Join(want, " "))
	})
}

// TestRestart: what was known is known again, also while nobody answers, but no longer than
// it would have been.
func TestRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "names.json")
	synctest.Test(t, func(t *testing.T) {
		with := func(c *Config) { c.File = file }
		l := newLab(t, with)
		l.up.set(records(a(300, "9.9.9.9"), a(300, "10.0.0.1"), aaaa(300, "2a01::9")))
		l.run()
		l.want("at first", "9.9.9.9 2a01::9")
		l.stop()
		time.Sleep(23 * time.Hour)
		l = newLab(t, with)
		l.want("before the first plan", "9.9.9.9 2a01::9")
		l.run()
		time.Sleep(time.Hour + 4*time.Minute)
		l.want("in the outage", "9.9.9.9 2a01::9")
		time.Sleep(2 * time.Minute)
		l.want("stale", "")
		l.stop()
		for what, text := range map[string]string{
			"no JSON": "{", "another version": `{"v":2}`, "nothing": "",
			"wrong families": `{"v":1,"names":{"mdm.example.com":[[{"addr":"2a01::9","good":"2999-01-01T00:00:00Z"}],[{"addr":"9.9.9.9","good":"2999-01-01T00:00:00Z"}]]}}`,
		} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			l = newLab(t, with)
			l.want(what, "")
		}
		if err := os.WriteFile(file, []byte(`{"v":1,"names":{"mdm.example.com":[[{"addr":"9.9.9.9","good":"2999-01-01T00:00:00Z","current":true}],null]}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		l = newLab(t, with)
		l.run()
		defer func() { l.stop() }()
		l.want("from a clock that was far ahead", "9.9.9.9")
		time.Sleep(48*time.Hour + time.Second)
		l.want("bounded all the same", "")
	})
}

// TestNamesComeAndGo: names are followed from when a pool lists them until none does.
func TestNamesComeAndGo(t *testing.T) {
	bubble(t, records(a(60, "9.9.9.9"), "app.example.com. 60 IN A 9.9.9.10"), func(l *lab) {
		l.want("at first", "9.9.9.9")
		pools, _ := l.gate.Pools()
		l.gate.setPools(map[string]quarantine.Pool{"narrow": pools["narrow"]})
		synctest.Wait()
		l.up.questions()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for _, q := range l.up.questions() {
			if strings.Contains(q, mdm) {
				t.Errorf("asked %s for nobody", q)
			}
		}
		if _, ok := l.Look(mdm); ok || l.gate.open("narrow") != "9.9.9.10" {
			t.Errorf("still known, or the other is not open: %q", l.gate.open("narrow"))
		}
	})
}

// TestSystemServers reads resolv.conf at each question.
func TestSystemServers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	ask := Servers(nil, file)
	if _, err := ask(); err == nil {
		t.Error("no file, and no error")
	}
	for text, want := range map[string]string{
		"nameserver 192.0.2.1\nnameserver 2001:db8::1\noptions edns0\n":                                            "[192.0.2.1:53 [2001:db8::1]:53]",
		"nameserver fe80::1%lo\nnameserver x\n":                                                                    "[[fe80::1%lo]:53]",
		"nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\nsearch a.b c.d\n": "[192.0.2.1:53 192.0.2.2:53 192.0.2.3:53]",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ask(); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if err := os.WriteFile(file, []byte("search a.b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := ask(); err == nil {
		t.Errorf("no server, but %v", got)
	}
}
