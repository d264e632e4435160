package claim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/appliance"
	"lazaret/internal/testneed"
)

func sum(b []byte) Sum {
	s := sha256.Sum256(b)
	return s[:]
}

// relay is somebody between: it ends TLS with a certificate of its own, and passes on all
// that it reads.
func relay(t *testing.T, to string) string {
	t.Helper()
	cert, err := newCertificate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := tls.Dial("tcp", to, &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				t.Error(err)
				in.Close()
				continue
			}
			for _, x := range [][2]net.Conn{{in, out}, {out, in}} {
				all.Go(func() {
					defer x[0].Close()
					defer x[1].Close()
					_, _ = io.Copy(x[0], x[1])
				})
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

// TestManInTheMiddle: who ends TLS between claimant and machine can pass on neither proof:
// the claimant stops before it has sent its request, and the machine refuses one all the same.
func TestManInTheMiddle(t *testing.T) {
	m := newMachine(t, nil)
	between := relay(t, m.address)
	text := request(t)
	var seen string
	_, err := Dial(t.Context(), between, m.code, text, func(p string) { seen = p })
	if !errors.Is(err, ErrProof) {
		t.Fatalf("the claimant went on: %v", err)
	}
	if seen == m.print || seen == "" {
		t.Errorf("fingerprint %q of both", seen)
	}
	// A claimant that does not look: its proof is for its connection, not the machine's.
	raw, err := tls.Dial("tcp", between, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	k := &Conn{tls: raw, host: between, code: m.code, request: text}
	if err := k.open(t.Context(), nil); !errors.Is(err, ErrProof) {
		t.Fatal(err)
	}
	if _, err := k.Claim(t.Context(), nil); refused(err) != Wrong {
		t.Errorf("the machine took a proof for another connection: %v", err)
	}
	k.Close()
	if made, _ := m.count(); made != 0 {
		t.Error("it was claimed through somebody between")
	}
	// Without TLS ended in between, the same relay would be no matter.
	if _, err := dial(t, m, text).Claim(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestReflection: what the machine proves is no proof of the claimant's, and the other way round.
func TestReflection(t *testing.T) {
	c := DrawCode()
	x := Exchange{Exporter: sum([]byte("1")), Claimant: sum([]byte("2")), Machine: sum([]byte("3")), Request: sum([]byte("4"))}
	labels := []string{labelMachine, labelClaimant, labelAnswer, labelKept}
	for _, a := range labels {
		proof, err := prove(c, a, x, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range labels {
			if got := proves(c, b, x, nil, proof); got != (a == b) {
				t.Errorf("a proof for %q counts for %q: %v", a, b, got)
			}
		}
		for i := range 4 {
			y := x
			*[]*Sum{&y.Exporter, &y.Claimant, &y.Machine, &y.Request}[i] = sum([]byte("other"))
			if proves(c, a, y, nil, proof) {
				t.Errorf("%q: part %d of the exchange does not count", a, i)
			}
		}
		if proves(DrawCode(), a, x, nil, proof) || proves(c, a, x, []byte("x"), proof) || proves(c, a, x, nil, nil) || proves(Code{}, a, x, nil, proof) {
			t.Errorf("%q: code or text does not count", a)
		}
		for i := range proof {
			bad := bytes.Clone(proof)
			bad[i] ^= 1
			if proves(c, a, x, nil, bad) {
				t.Errorf("%q: byte %d of the proof does not count", a, i)
			}
		}
	}
	if _, err := prove(c, labelMachine, Exchange{Exporter: x.Exporter, Claimant: x.Claimant, Request: x.Request}, nil); err == nil {
		t.Error("an exchange without the machine's nonce can be proven")
	}
}

// witness computes proofs with Python's hmac and hashlib from the description in doc.go.
const witness = `
import hmac, hashlib, sys
code, exporter, claimant, machine, request = sys.argv[1:6]
prk = hmac.new(b"lazaret claim v1", code.encode(), hashlib.sha256).digest()
x = hashlib.sha256(b"lazaret claim v1 exchange\x00" + b"".join(bytes.fromhex(p) for p in (exporter, claimant, machine, request))).digest()
for label, said in zip(sys.argv[6::2], sys.argv[7::2]):
    key = hmac.new(prk, label.encode() + b"\x01", hashlib.sha256).digest()
    print(hmac.new(key, x + hashlib.sha256(said.encode()).digest(), hashlib.sha256).hexdigest())
`

// TestProofsAgainstPython: HKDF, transcript and MAC are what they are said to be.
func TestProofsAgainstPython(t *testing.T) {
	python := testneed.Program(t, "python3")
	c := DrawCode()
	x := Exchange{Exporter: sum([]byte("a")), Claimant: sum([]byte("b")), Machine: sum([]byte("c")), Request: sum([]byte("d"))}
	args := []string{"-I", "-S", "-c", witness, strings.ReplaceAll(c.String(), "-", "")}
	for _, part := range []Sum{x.Exporter, x.Claimant, x.Machine, x.Request} {
		args = append(args, fmt.Sprintf("%x", []byte(part)))
	}
	said := []string{"lazaret claim v1 machine", "", "lazaret claim v1 claimant", "", "lazaret claim v1 answer", "the answer", "lazaret claim v1 kept", ""}
	out, err := exec.Command(python, append(args, said...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := strings.Fields(string(out))
	if len(want) != 4 {
		t.Fatalf("Python says %s", out)
	}
	for i, w := range want {
		got, err := prove(c, said[2*i], x, []byte(said[2*i+1]))
		if err != nil || fmt.Sprintf("%x", []byte(got)) != w {
			t.Errorf("%s: %x (%v), Python says %s", said[2*i], []byte(got), err, w)
		}
	}
}

// TestCodeStaysHidden: printing a code shows nothing of it, and each is new.
func TestCodeStaysHidden(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		c := DrawCode()
		text := c.String()
		if len(text) != 27 || seen[text] {
			t.Fatalf("code of %d characters, seen before: %v", len(text), seen[text])
		}
		seen[text] = true
		for _, s := range []string{fmt.Sprintf("%v", c), fmt.Sprintf("%+v", struct{ C Code }{c}), fmt.Sprintf("%q", c), fmt.Sprint(c.LogValue())} {
			if strings.Contains(s, text[:7]) || strings.Contains(s, c.text[:7]) {
				t.Errorf("shown as %q", s)
			}
		}
	}
}

// post sends bytes to a path of a machine and returns the status.
func post(t *testing.T, m *machine, path string, body io.Reader) int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Post("https://"+m.address+path, "application/json", body)
	if err != nil {
		return 0 // it hung up while much was sent
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// TestOddRequests: what is too long, malformed or out of order is refused, and nothing breaks.
func TestOddRequests(t *testing.T) {
	m := newMachine(t, nil)
	for _, path := range []string{openPath, claimPath, keptPath} {
		for name, body := range map[string]string{
			"nothing": "", "null": "null", "half": `{"nonce":`, "short nonce": `{"nonce":"AAAA","request":"AAAA"}`, "unknown key": `{"x":1}`,
			"two values": `{}{}`, "not JSON": "\x00\xff", "long": `{"nonce":"` + strings.Repeat("A", 1<<20) + `"}`,
		} {
			if got := post(t, m, path, strings.NewReader(body)); got != http.StatusBadRequest && got != 0 {
				t.Errorf("%s, %s: %d", path, name, got)
			}
			m.refill()
		}
	}
	for _, path := range []string{"/claim/v1/", "/x", "/../etc/passwd"} {
		if got := post(t, m, path, strings.NewReader("{}")); got == http.StatusOK {
			t.Errorf("%s: %d", path, got)
		}
	}
	plain, err := net.Dial("tcp", m.address)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(plain, "GET / HTTP/1.1\r\n\r\n")
	_, _ = io.Copy(io.Discard, plain)
	plain.Close()
	if _, err := Dial(t.Context(), m.address, m.code, request(t), nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestSlowStrangers: who begins and does not go on is in nobody's way.
func TestSlowStrangers(t *testing.T) {
	m := newMachine(t, nil)
	for _, said := range []string{"", "\x16\x03\x01", "POST"} {
		raw, err := net.Dial("tcp", m.address)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		_, _ = io.WriteString(raw, said)
		half, err := tls.Dial("tcp", m.address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer half.Close()
		_, _ = io.WriteString(half, "POST "+claimPath+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
	}
	if _, err := dial(t, m, request(t)).Claim(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestOtherSites: another site's page cannot have a browser send anything here.
func TestOtherSites(t *testing.T) {
	m := newMachine(t, nil)
	req, err := http.NewRequest(http.MethodPost, "https://"+m.address+openPath, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "https://evil.example")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("answered %d", resp.StatusCode)
	}
}

// TestNoMachine: other services are told apart from a machine.
func TestNoMachine(t *testing.T) {
	cert, err := newCertificate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]string{
		"web server": "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "JSON": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
		"endless": "HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + strings.Repeat("x", 20<<10), "no HTTP": "SSH-2.0\r\n",
	} {
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			if _, err := c.Read(make([]byte, 4096)); err == nil {
				_, _ = io.WriteString(c, answer)
			}
		}()
		if _, err := Dial(t.Context(), l.Addr().String(), DrawCode(), request(t), nil); !errors.Is(err, ErrNoMachine) {
			t.Errorf("%s: %v", name, err)
		}
		l.Close()
		<-done
	}
}

// TestLimiter: one address runs out of tries and earns them back; others are not touched, and
// what is remembered is bounded.
func TestLimiter(t *testing.T) {
	var l limiter
	now := time.Unix(1e9, 0)
	a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2:3")
	for i := range tries {
		if !l.allow(a, now) {
			t.Fatalf("try %d refused", i+1)
		}
	}
	if l.allow(b, now) {
		t.Error("another address of the same /64 has tries of its own")
	}
	if !l.allow(netip.MustParseAddr("2001:db8:0:1::1"), now) {
		t.Error("another network is refused")
	}
	if l.allow(a, now.Add(tryAgain/2)) || !l.allow(a, now.Add(tryAgain)) || l.allow(a, now.Add(tryAgain)) {
		t.Error("a try is not earned back in a second, or more than one is")
	}
	for i := range 3 * maxLimited {
		if !l.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now) {
			t.Fatal("a new address is refused because of others")
		}
	}
	if len(l.used) > maxLimited {
		t.Errorf("%d addresses are remembered", len(l.used))
	}
}

func TestThrottle(t *testing.T) {
	m := newMachine(t, nil)
	busy := 0
	for range tries + 5 {
		if _, err := Dial(t.Context(), m.address, m.code, request(t), nil); refused(err) == Busy {
			busy++
		}
	}
	if busy == 0 {
		t.Error("one address may begin as many exchanges as it likes")
	}
}

// TestSetupFaults: all of them come back, each under its key.
func TestSetupFaults(t *testing.T) {
	faults := Check(appliance.Setup{Name: "No Good", Management: []string{"x y z"}, Proxy: "gopher://x"})
	got := map[string]bool{}
	for _, f := range faults {
		got[f.Field] = true
	}
	for _, want := range []string{"name", "enroll_names", "management", "proxy"} {
		if !got[want] {
			t.Errorf("no fault of %s in %v", want, faults)
		}
	}
	if _, err := NewRequest(Request{Setup: setup()}, newKey(t)); err != nil {
		t.Error(err)
	}
}

// FuzzRequest: whatever a stranger or the door sends as a request, reading it ends without a
// panic, and what passes has a P-256 key.
func FuzzRequest(f *testing.F) {
	f.Add(request(f))
	f.Add([]byte(`{"v":1,"setup":{},"csr":""}`))
	f.Add([]byte(`{"v":1,"setup":{"network":{"version":2,"ethernets":{"eth0":{"addresses":["192.0.2.1/24"]}}}},"csr":"MAA="}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, key, err := ParseRequest(text)
		if err == nil && (key == nil || key.Curve.Params().BitSize != 256 || r.Version != 1) {
			t.Error("a request passed without a key")
		}
		Check(r.Setup)
	})
}

// FuzzCalls: whatever the door says, the keeper answers or hangs up, and makes nothing without a proof.
func FuzzCalls(f *testing.F) {
	f.Add([]byte(`{"id":1,"kind":"open","exchange":{"exporter":"AA==","claimant":"AA==","request":"AA=="}}`))
	f.Add([]byte(`{"id":1,"kind":"claim","exchange":{},"request":"e30=","proof":"AA=="}` + "\n" + `{"id":2,"kind":"kept"}`))
	f.Add([]byte(`{"id":1,"kind":"serving","text":"x"}` + "\n"))
	code := DrawCode()
	f.Fuzz(func(t *testing.T, text []byte) {
		m := &machine{}
		k, err := NewKeeper(KeeperConfig{Code: code, Make: m.make, Keep: func(context.Context) error { m.kept++; return nil }, Log: silent})
		if err != nil {
			t.Fatal(err)
		}
		in := newLines(bytes.NewReader(text))
		for {
			var c call
			if err := in.next(&c); err != nil {
				break
			}
			k.reply(t.Context(), c, func(string) {})
		}
		if made, kept := m.count(); made != 0 || kept != 0 {
			t.Error("made without a proof")
		}
	})
}
