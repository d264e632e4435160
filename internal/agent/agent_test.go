package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/internal/agentapi"
	"lazaret/quarantine/tunnel"
)

var (
	prefix = netip.MustParsePrefix
	addr   = netip.MustParseAddr
)

// settings are those of seat 1: quarantined, or routed with a default route.
func settings(routed bool) cmp.Settings {
	s := cmp.Settings{
		Version: 1, Device: "d-1", Name: "alice-laptop", MTU: 1420,
		Quarantine: cmp.Network{
			Pool: "quarantine", Addresses: []netip.Prefix{prefix("10.66.0.2/32"), prefix("fd66::2/128")},
			Routes: []netip.Prefix{prefix("192.0.2.10/32"), prefix("10.66.0.1/32")},
		},
		Gateways: []cmp.Gateway{{
			Name: "gw", WireGuard: tunnel.Key{9}.String(), Endpoints: []string{"198.51.100.1:51820"},
			Tunnel: []netip.Addr{addr("10.66.0.1"), addr("fd66::1")}, API: "https://10.66.0.1:8444",
		}},
	}
	if routed {
		s.Full = cmp.Network{Pool: "full", Addresses: []netip.Prefix{prefix("10.67.0.2/32")}, Routes: []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0")}}
	}
	return s
}

var endpoint = netip.MustParseAddrPort("198.51.100.1:51820")

var via = way{"gw", endpoint}

func TestLayout(t *testing.T) {
	quarantined, err := layoutFor(settings(false), via)
	if err != nil {
		t.Fatal(err)
	}
	routed, err := layoutFor(settings(true), via)
	if err != nil {
		t.Fatal(err)
	}
	management := []tunnel.Route{
		{To: prefix("10.66.0.1/32"), Source: addr("10.66.0.2"), Table: managementTable}, {To: prefix("fd66::1/128"), Source: addr("fd66::2"), Table: managementTable},
		{To: prefix("192.0.2.10/32"), Source: addr("10.66.0.2"), Table: managementTable},
	}
	if !slices.Equal(quarantined.Routes, management) || quarantined.Routed {
		t.Errorf("in quarantine: %+v", quarantined)
	}
	// Routed: management keeps its routes and sources; all else goes by a table of its
	// own. The pool has no IPv6 address here, so no IPv6 goes into the tunnel.
	want := append(slices.Clone(management), tunnel.Route{To: prefix("0.0.0.0/0"), Source: addr("10.67.0.2"), Table: poolTable})
	if !slices.Equal(routed.Routes, want) || !routed.Routed || len(routed.Addresses) != 3 {
		t.Errorf("routed: %+v", routed)
	}
	if !slices.Equal(routed.Peer.AllowedIPs, []netip.Prefix{prefix("10.66.0.1/32"), prefix("fd66::1/128"), prefix("192.0.2.10/32"), prefix("0.0.0.0/0")}) {
		t.Errorf("allowed: %v", routed.Peer.AllowedIPs)
	}
	for name, spoil := range map[string]func(*cmp.Settings){
		"no gateway": func(s *cmp.Settings) { s.Gateways = nil }, "no address": func(s *cmp.Settings) { s.Quarantine.Addresses = nil },
		"no key": func(s *cmp.Settings) { s.Gateways[0].WireGuard = "x" },
	} {
		s := settings(false)
		spoil(&s)
		if _, err := layoutFor(s, via); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestNoDNSServerWithAZone: what a zone holds never comes into the resolver's file.
func TestNoDNSServerWithAZone(t *testing.T) {
	good := []netip.Addr{addr("10.66.0.1"), addr("fd66::1")}
	all := []netip.Addr{addr("fe80::1%x\nnameserver 203.0.113.6"), good[0], {}, good[1], addr("fe80::1%eth0")}
	for _, routed := range []bool{false, true} {
		s := settings(routed)
		s.Quarantine.DNS, s.Full.DNS = all, all
		if l, err := layoutFor(s, via); err != nil || !slices.Equal(l.DNS, good) {
			t.Errorf("routed %v: %v, %v; want %v", routed, l.DNS, err, good)
		}
	}
	if len(all) != 5 || all[0].Zone() == "" {
		t.Error("the settings were changed")
	}
}

// TestScheduleIsM8s: 3 minutes, then every 15, 192 times, with a tenth of jitter.
func TestScheduleIsM8s(t *testing.T) {
	var whole time.Duration
	for held := range 192 {
		wait, ok := DefaultSchedule.next(held)
		want := 15 * time.Minute
		if held == 0 {
			want = 3 * time.Minute
		}
		if !ok || wait < want*9/10 || wait > want*11/10 {
			t.Fatalf("session %d after %s, %v", held+1, wait, ok)
		}
		whole += wait
	}
	if _, ok := DefaultSchedule.next(192); ok {
		t.Error("a 193rd session")
	}
	if whole < 45*time.Hour || whole > 50*time.Hour {
		t.Errorf("192 sessions take %s, want about 48 hours", whole)
	}
}

// fakeNetwork remembers what the device's network was made.
type fakeNetwork struct {
	mu        sync.Mutex
	addresses []netip.Prefix
	rules     netip.Addr
	peer      tunnel.Peer
	gone      []tunnel.Key
	key       tunnel.Key
	calls     int
	fail      error
}

func (f *fakeNetwork) did() error {
	f.calls++
	return f.fail
}
func (f *fakeNetwork) SetAddresses(a []netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addresses = a
	return f.did()
}
func (f *fakeNetwork) SetPeer(p tunnel.Peer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peer = p
	return f.fail
}
func (f *fakeNetwork) RemovePeer(k tunnel.Key) error {
	f.gone = append(f.gone, k)
	return f.fail
}
func (f *fakeNetwork) SetKey(k tunnel.PrivateKey) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.key = k.Public()
	return f.fail
}
func (f *fakeNetwork) SetRoutes([]tunnel.Route) error { return f.fail }
func (f *fakeNetwork) SetRules(e netip.Addr) error    { f.rules = e; return f.fail }
func (f *fakeNetwork) DropRules() error               { f.rules = netip.Addr{}; return f.fail }
func (f *fakeNetwork) Peers() ([]tunnel.PeerStatus, error) {
	return nil, nil
}
func (f *fakeNetwork) Remove() error { return nil }

func (f *fakeNetwork) has() []netip.Prefix {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.addresses
}

// newAgent makes an agent with an enrollment on disk and a fake network.
func newAgent(t *testing.T) (*Agent, *fakeNetwork) {
	t.Helper()
	s, err := makeStore(filepath.Join(t.TempDir(), "agent"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.key(keyFile, newCertificateKey)
	if err != nil {
		t.Fatal(err)
	}
	st := state{Version: 1, Server: "https://gw.example.com", User: os.Getuid(), Certificate: selfSigned(t, key), Root: []byte{1}, Settings: settings(false)}
	if err := s.save(st); err != nil {
		t.Fatal(err)
	}
	f := &fakeNetwork{}
	a := &Agent{config: Config{Schedule: DefaultSchedule}, store: s, log: slog.New(slog.DiscardHandler), net: f, state: st, via: via, moved: make(chan struct{}, 1), renewNow: make(chan struct{}, 1), woken: make(chan struct{}, 1), managed: managed{Version: 1}, quit: func() {}}
	return a, f
}

func selfSigned(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "d-1"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func status(stage string, routed bool, revision int64) agentapi.Status {
	return agentapi.Status{Device: "d-1", Stage: stage, Revision: revision, Settings: settings(routed)}
}

func TestMovesAreFollowed(t *testing.T) {
	a, f := newAgent(t)
	a.take(status("quarantined", false, 1))
	if len(f.has()) != 2 || f.rules != endpoint.Addr() {
		t.Errorf("in quarantine: %v, rules for %v", f.addresses, f.rules)
	}
	a.take(status("routed", true, 2))
	if !slices.Contains(f.has(), prefix("10.67.0.2/32")) || f.rules != endpoint.Addr() {
		t.Errorf("routed: %v, rules for %v", f.addresses, f.rules)
	}
	calls := f.calls
	a.take(status("routed", true, 3)) // a longer lease, the same place
	if f.calls != calls {
		t.Error("the network was touched although nothing moved")
	}
	a.take(status("quarantined", false, 4))
	if slices.Contains(f.has(), prefix("10.67.0.2/32")) {
		t.Errorf("back in quarantine: %v, rules for %v", f.addresses, f.rules)
	}
	f.fail = errors.New("no such device")
	a.take(status("routed", true, 5))
	if a.show().Problem == "" {
		t.Error("a network that could not be set up is not shown")
	}
	f.fail = nil
	a.take(status("routed", true, 5))
	if !slices.Contains(f.has(), prefix("10.67.0.2/32")) {
		t.Error("not tried again")
	}
}

// TestFollowAnswersAtOnce: a long poll ends with the change, and the device follows.
func TestFollowAnswersAtOnce(t *testing.T) {
	a, f := newAgent(t)
	changed := make(chan agentapi.Status, 2)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case st := <-changed:
			_ = json.NewEncoder(w).Encode(st)
		case <-r.Context().Done():
		}
	}))
	defer srv.Close()
	a.api = &gateway{base: srv.URL, http: srv.Client()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.follow(ctx) }()
	changed <- status("routed", true, 7)
	<-a.moved
	if !slices.Contains(f.has(), prefix("10.67.0.2/32")) {
		t.Errorf("after the change: %v", f.has())
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("follow ended with %v", err)
	}
	again, err := a.store.load()
	if err != nil || again.Settings.Full.Pool != "full" {
		t.Errorf("kept for the next start: %+v %v", again.Settings.Full, err)
	}
}

// TestGatewayIsVerified: another root, or a certificate without the tunnel address, is
// nobody the agent talks to.
func TestGatewayIsVerified(t *testing.T) {
	a, _ := newAgent(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := selfSigned(t, key)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(status("quarantined", false, 1))
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	srv.StartTLS()
	defer srv.Close()
	st := a.state
	st.Settings.Gateways[0].API = srv.URL
	st.Settings.Quarantine.Addresses = []netip.Prefix{prefix("127.0.0.1/32")}
	cert, err := a.store.certificate(st)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(root []byte) error {
		st.Root = root
		g, err := newGateway(st, way{}, cert)
		if err != nil {
			t.Fatal(err)
		}
		_, err = g.status(t.Context(), 0, 0, "")
		return err
	}
	if err := ask(der); err != nil {
		t.Errorf("the right gateway: %v", err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(selfSigned(t, other)); err == nil {
		t.Error("a gateway under another root was believed")
	}
}

// TestRenewalCutOffBetweenCertificateAndKey: whichever of the two files made it to the
// disk, the next start finds a pair.
func TestRenewalCutOffBetweenCertificateAndKey(t *testing.T) {
	a, _ := newAgent(t)
	next, err := a.store.key(nextKeyFile, newCertificateKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.store.load(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(a.store.dir, nextKeyFile)); err != nil {
		t.Error("a next key without its certificate must wait, not replace the current one")
	}
	st := a.state
	st.Certificate = selfSigned(t, next)
	if err := a.store.save(st); err != nil { // killed here
		t.Fatal(err)
	}
	if st, err = a.store.load(); err != nil {
		t.Fatal(err)
	}
	cert, err := a.store.certificate(st)
	if err != nil {
		t.Fatal(err)
	}
	if key := cert.PrivateKey.(*ecdsa.PrivateKey); !key.PublicKey.Equal(cert.Leaf.PublicKey) {
		t.Error("certificate and key do not belong together after the restart")
	}
}

func TestFilesAreForTheirOwnerAlone(t *testing.T) {
	a, _ := newAgent(t)
	if _, err := a.store.wireguard(wireguardFile); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{stateFile, keyFile, wireguardFile} {
		info, err := os.Stat(filepath.Join(a.store.dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if err := os.Chmod(a.store.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(a.store.dir); err == nil {
		t.Error("a directory that others may enter was used")
	}
	if _, err := (store{t.TempDir()}).load(); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("an empty directory: %v", err)
	}
}

const askAt = "LAZARET_TEST_ASK" // the socket that a child asks at

// TestOnlyRootAndTheEnrollingUserDriveTheAgent asks over the real socket: as this user
// and, where this is root, as another one too.
func TestOnlyRootAndTheEnrollingUserDriveTheAgent(t *testing.T) {
	if path := os.Getenv(askAt); path != "" {
		_, err := Ask(t.Context(), path, Request{Op: "status"})
		fmt.Println("answer:", err)
		return
	}
	dir, err := os.MkdirTemp("/tmp", "lazaret-agent-") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const other = 65534
	for _, enrolled := range []int{os.Getuid(), other, other - 1} {
		a, _ := newAgent(t)
		a.state.User = enrolled
		path := filepath.Join(dir, fmt.Sprint(enrolled))
		l, err := listenControl(path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.control(ctx, l) }()
		if _, err = Ask(ctx, path, Request{Op: "status"}); (err != nil) != (os.Getuid() != 0 && enrolled != os.Getuid()) {
			t.Errorf("enrolled by %d, asked by %d: %v", enrolled, os.Getuid(), err)
		}
		if os.Getuid() == 0 {
			child := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
			child.Env = append(os.Environ(), askAt+"="+path)
			child.Dir = "/"
			child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: other, Gid: other}}
			out, err := child.CombinedOutput()
			want := "answer: only root and the user who enrolled"
			if enrolled == other {
				want = "answer: <nil>"
			}
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("enrolled by %d, asked by %d: %v\n%s", enrolled, other, err, out)
			}
		}
		if _, err := listenControl(path); err == nil {
			t.Error("a second agent took the socket of a running one")
		}
		cancel()
		<-done
	}
}

// TestEnrollmentUnderARunningAgentIsRefused: the agent would overwrite it.
func TestEnrollmentUnderARunningAgentIsRefused(t *testing.T) {
	a, _ := newAgent(t)
	unlock, err := a.store.lock()
	if err != nil {
		t.Fatal(err)
	}
	o := EnrollOptions{Dir: a.store.dir, Server: "https://127.0.0.1:1", Force: true, Log: a.log}
	if _, err := Enroll(t.Context(), o); err == nil || !strings.Contains(err.Error(), "lazaret down") {
		t.Errorf("while the agent runs: %v", err)
	}
	unlock()
	if unlock, err = a.store.lock(); err != nil {
		t.Errorf("after it ended: %v", err)
	}
	unlock()
}

// TestUnfinishedFilesAreSwept: what a killed process was writing goes with the next lock,
// whole files stay, and nothing is touched under a process that works there.
func TestUnfinishedFilesAreSwept(t *testing.T) {
	a, _ := newAgent(t)
	unlock, err := a.store.lock()
	must(t, err)
	names := func() (all []string) {
		list, err := os.ReadDir(a.store.dir)
		must(t, err)
		for _, e := range list {
			all = append(all, e.Name())
		}
		return all
	}
	whole := names()
	left := []string{".new-1", ".key-2", ".device.json.new-3", ".wireguard.key.new-4"}
	for _, name := range left { // killed while writing these
		put(t, filepath.Join(a.store.dir, name), "half a key")
	}
	if _, err := a.store.lock(); err == nil || len(names()) != len(whole)+len(left) {
		t.Errorf("under another process: %v, %v", err, names())
	}
	unlock()
	unlock, err = a.store.lock()
	must(t, err)
	defer unlock()
	if got := names(); !slices.Equal(got, whole) {
		t.Errorf("left %v, want %v", got, whole)
	}
}

// TestRenewalIsDueAtTwoThirdsOfWhatIsLeft, although certificates are dated back.
func TestRenewalIsDueAtTwoThirdsOfWhatIsLeft(t *testing.T) {
	came := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
	leaf := &x509.Certificate{NotBefore: came.Add(-5 * time.Minute), NotAfter: came.Add(time.Minute)}
	if got := renewAt(came, leaf); !got.Equal(came.Add(40 * time.Second)) {
		t.Errorf("a minute's certificate is renewed at %s", got)
	}
	for _, odd := range []time.Time{{}, came.Add(time.Hour)} { // an older enrollment, a clock that jumped
		if got := renewAt(odd, leaf); !got.Equal(came.Add(-time.Minute)) {
			t.Errorf("obtained %s: renewed at %s", odd, got)
		}
	}
}

func TestRenewalDoesNotHammer(t *testing.T) {
	for left, want := range map[time.Duration]time.Duration{
		-time.Hour: 10 * time.Minute, 0: 10 * time.Minute, time.Minute: 5 * time.Second, 20 * time.Minute: time.Minute, 720 * time.Hour: time.Hour,
	} {
		if got := renewAgain(left, false, 1); got != want {
			t.Errorf("with %s left: again after %s, want %s", left, got, want)
		}
	}
	// One that was begun is tried again sooner: the gateway may know only its certificate.
	for failures, want := range map[int]time.Duration{1: 5 * time.Second, 2: 10 * time.Second, 5: 80 * time.Second, 9: 1280 * time.Second, 50: time.Hour} {
		if got := renewAgain(720*time.Hour, true, failures); got != want {
			t.Errorf("begun, after %d failures: again after %s, want %s", failures, got, want)
		}
	}
}

// TestReportsAreNumberedOnDiskFirst: a restart never sends an older number.
func TestReportsAreNumberedOnDiskFirst(t *testing.T) {
	a, _ := newAgent(t)
	for want := uint64(1); want <= 3; want++ {
		if r := a.newReport(t.Context(), "compliant"); r.Sequence != want {
			t.Errorf("report %d is numbered %d", want, r.Sequence)
		}
		if st, err := a.store.load(); err != nil || st.Sequence != want {
			t.Errorf("on disk: %d %v", st.Sequence, err)
		}
	}
}

// TestSessionsFollowTheScheduleUntilOneSucceeds runs M8's schedule on a fake clock.
func TestSessionsFollowTheScheduleUntilOneSucceeds(t *testing.T) {
	a, _ := newAgent(t)
	synctest.Test(t, func(t *testing.T) {
		var held []time.Duration
		begin := time.Now()
		a.moved = make(chan struct{}, 1)
		a.api = &gateway{base: "https://gw", http: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			held = append(held, time.Since(begin))
			w := httptest.NewRecorder()
			released := len(held) == 3
			stage := "quarantined"
			if released {
				stage = "routed"
			}
			_ = json.NewEncoder(w).Encode(agentapi.Session{Released: released, Status: status(stage, released, int64(len(held)))})
			return w.Result(), nil
		})}}
		ctx, cancel := context.WithTimeout(t.Context(), 48*time.Hour)
		defer cancel()
		if err := a.sessions(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
		if len(held) != 3 || held[0] < 162*time.Second || held[0] > 198*time.Second || held[1]-held[0] < 810*time.Second || held[1]-held[0] > 990*time.Second {
			t.Errorf("sessions at %v, want one after 3 minutes, then every 15, until the third succeeded", held)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
