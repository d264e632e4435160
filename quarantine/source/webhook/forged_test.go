package webhook

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// forgery makes, of a message that would be taken, one that must not be.
type forgery struct {
	name   string
	status int
	make   func(r *rand.Rand, l *lab, h http.Header, body string) (to string, out http.Header, changed string)
}

func flip(r *rand.Rand, s string) string {
	b := []byte(s)
	b[r.IntN(len(b))] ^= byte(1 << r.IntN(7))
	return string(b)
}

var forgeries = []forgery{
	{"a bit of the body", 401, func(r *rand.Rand, _ *lab, h http.Header, body string) (string, http.Header, string) {
		return "mdm", h, flip(r, body)
	}},
	{"a bit of the signature", 401, func(r *rand.Rand, _ *lab, h http.Header, body string) (string, http.Header, string) {
		mac, _ := base64.StdEncoding.DecodeString(h.Get(HeaderSignature)[3:])
		mac[r.IntN(len(mac))] ^= byte(1 << r.IntN(8))
		h.Set(HeaderSignature, "v1,"+base64.StdEncoding.EncodeToString(mac))
		return "mdm", h, body
	}},
	{"another time stamp", 401, func(r *rand.Rand, l *lab, h http.Header, body string) (string, http.Header, string) {
		h.Set(HeaderTime, strconv.FormatInt(l.now.Unix()+1+r.Int64N(290), 10))
		return "mdm", h, body
	}},
	{"another id", 401, func(r *rand.Rand, _ *lab, h http.Header, body string) (string, http.Header, string) {
		h.Set(HeaderID, fmt.Sprintf("msg_x%d", r.Int()))
		return "mdm", h, body
	}},
	{"another key", 401, func(_ *rand.Rand, l *lab, h http.Header, body string) (string, http.Header, string) {
		Sign(h, h.Get(HeaderID), l.now, []byte(body), NewSecret())
		return "mdm", h, body
	}},
	{"another source", 401, func(_ *rand.Rand, _ *lab, h http.Header, body string) (string, http.Header, string) {
		return "other", h, body
	}},
	{"from the past", 401, func(r *rand.Rand, l *lab, h http.Header, body string) (string, http.Header, string) {
		Sign(h, h.Get(HeaderID), l.now.Add(-MaxWindow-time.Second-time.Duration(r.Int64N(1e18))), []byte(body), l.secret)
		return "mdm", h, body
	}},
	{"from the future", 401, func(r *rand.Rand, l *lab, h http.Header, body string) (string, http.Header, string) {
		Sign(h, h.Get(HeaderID), l.now.Add(MaxWindow+time.Second+time.Duration(r.Int64N(1e18))), []byte(body), l.secret)
		return "mdm", h, body
	}},
	{"cut off", 401, func(r *rand.Rand, _ *lab, h http.Header, body string) (string, http.Header, string) {
		return "mdm", h, body[:r.IntN(len(body))]
	}},
	{"longer", 401, func(_ *rand.Rand, _ *lab, h http.Header, body string) (string, http.Header, string) {
		return "mdm", h, body + " "
	}},
	{"cut off and signed", 400, func(r *rand.Rand, l *lab, _ http.Header, body string) (string, http.Header, string) {
		body = body[:r.IntN(len(body))]
		return "mdm", l.signed(body), body
	}},
	{"a name twice", 400, func(r *rand.Rand, l *lab, _ http.Header, body string) (string, http.Header, string) {
		name := []string{"device", "verdict", "at", "sequence", `v\u0065rdict`}[r.IntN(5)]
		body = strings.TrimSuffix(body, "}") + fmt.Sprintf(`,"%s":"compliant"}`, name)
		return "mdm", l.signed(body), body
	}},
	{"a name in another case", 400, func(r *rand.Rand, l *lab, _ http.Header, body string) (string, http.Header, string) {
		body = strings.TrimSuffix(body, "}") + fmt.Sprintf(`,%q:"compliant"}`, []string{"Verdict", "DEVICE", "vErdict", "more"}[r.IntN(4)])
		return "mdm", l.signed(body), body
	}},
	{"something behind it", 400, func(_ *rand.Rand, l *lab, _ http.Header, body string) (string, http.Header, string) {
		return "mdm", l.signed(body + body), body + body
	}},
	{"no header", 401, func(r *rand.Rand, _ *lab, h http.Header, body string) (string, http.Header, string) {
		h.Del([]string{HeaderID, HeaderTime, HeaderSignature}[r.IntN(3)])
		return "mdm", h, body
	}},
	{"a header twice", 401, func(r *rand.Rand, _ *lab, h http.Header, body string) (string, http.Header, string) {
		name := []string{HeaderID, HeaderTime, HeaderSignature}[r.IntN(3)]
		h.Add(name, h.Get(name))
		return "mdm", h, body
	}},
	{"another way to write the time", 401, func(r *rand.Rand, _ *lab, h http.Header, body string) (string, http.Header, string) {
		h.Set(HeaderTime, []string{"+", "0", "-", "0x"}[r.IntN(4)]+h.Get(HeaderTime))
		return "mdm", h, body
	}},
	{"parts moved over a full stop", 401, func(_ *rand.Rand, _ *lab, h http.Header, body string) (string, http.Header, string) {
		h.Set(HeaderID, h.Get(HeaderID)+"."+h.Get(HeaderTime))
		return "mdm", h, body
	}},
	{"another version of signature", 401, func(_ *rand.Rand, _ *lab, h http.Header, body string) (string, http.Header, string) {
		h.Set(HeaderSignature, strings.Replace(h.Get(HeaderSignature), "v1,", "v1a,", 1))
		return "mdm", h, body
	}},
}

// TestForgedMessagesReachNobody tries 20,000 messages that were changed on the way, made up,
// replayed, or signed and malformed: each gets its error, and the gate is never asked.
func TestForgedMessagesReachNobody(t *testing.T) {
	l := newLab(t)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	var taken []http.Header // to be replayed
	var bodies []string
	for range 50 {
		h := l.signed(good)
		if got := l.send("mdm", h, good).Code; got != 200 {
			t.Fatalf("the control got %d", got)
		}
		taken, bodies = append(taken, h), append(bodies, good)
	}
	calls := l.gate.calls
	counts, tries := map[string]int{}, 20000
	if testing.Short() {
		tries = 2000
	}
	for i := range tries {
		n := r.IntN(len(forgeries) + 1)
		if n == len(forgeries) {
			j := r.IntN(len(taken))
			if got := l.send("mdm", taken[j], bodies[j]).Code; got != 401 {
				t.Fatalf("seed %d, message %d, replayed: status %d", seed, i, got)
			}
			counts["replayed"]++
			continue
		}
		f := forgeries[n]
		report := map[string]any{"device": fmt.Sprintf("dev%d", r.IntN(100)), "verdict": "compliant",
			"at": l.now.Add(-time.Duration(r.IntN(1000)) * time.Second), "sequence": r.IntN(1000)}
		text, err := json.Marshal(report)
		if err != nil {
			t.Fatal(err)
		}
		to, h, body := f.make(r, l, maps.Clone(l.signed(string(text))), string(text))
		if got := l.send(to, h, body); got.Code != f.status {
			t.Fatalf("seed %d, message %d, %s: status %d %s, want %d\n%v\n%s", seed, i, f.name, got.Code, got.Body, f.status, h, body)
		}
		counts[f.name]++
	}
	if l.gate.calls != calls {
		t.Errorf("the gate was asked %d times", l.gate.calls-calls)
	}
	if len(counts) != len(forgeries)+1 {
		t.Errorf("tried %v", counts)
	}
	if status, _, _ := l.post(good); status != 200 {
		t.Errorf("a good message afterwards: %d", status)
	}
}
