package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/internal/manage"
	"lazaret/quarantine"
)

// values is where the desk keeps what it keeps.
type values struct {
	mu    sync.Mutex
	items map[string]manage.Item
	rev   int64
}

func (s *values) List(context.Context, string) (all []manage.Item, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range s.items {
		all = append(all, it)
	}
	return all, nil
}
func (s *values) Get(_ context.Context, name string) (manage.Item, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.items[name], nil
}
func (s *values) Put(_ context.Context, _ quarantine.Actor, it manage.Item) (manage.Item, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.items[it.Name].Revision != it.Revision {
		return it, quarantine.ErrConflict
	}
	s.rev++
	it.Revision = s.rev
	s.items[it.Name] = it
	return it, nil
}
func (s *values) Delete(context.Context, quarantine.Actor, string) error { return nil }

// oneDevice is a gate that knows d-1.
type oneDevice struct{ r quarantine.Record }

func (g *oneDevice) Change(_ context.Context, _ quarantine.Actor, c quarantine.Change) (quarantine.Placement, error) {
	if c.Kind == quarantine.Wipe {
		g.r.Wipe = quarantine.Decision{By: c.By, At: c.At}
	}
	return quarantine.Placement{}, nil
}
func (g *oneDevice) Device(string) (quarantine.Record, error) { return g.r, nil }
func (g *oneDevice) Devices() []quarantine.Record             { return []quarantine.Record{g.r} }

// desk is a gateway's management sessions behind TLS of the organization's, and what an
// attacker might have.
type desk struct {
	*manage.Manager
	t       *testing.T
	root    *x509.Certificate
	rootKey *ecdsa.PrivateKey
	signer  *ecdsa.PrivateKey
	chain   []*x509.Certificate
	store   *values
	gate    *oneDevice
	srv     *httptest.Server
	results []string // as the audit log has them
	spoil   func(path string, answer []byte) []byte
}

func newP256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

// issue makes a certificate below the desk's root.
func (d *desk) issue(pub crypto.PublicKey, edit func(*x509.Certificate)) *x509.Certificate {
	d.t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true}
	edit(c)
	der, err := x509.CreateCertificate(rand.Reader, c, d.root, pub, d.rootKey)
	must(d.t, err)
	out, err := x509.ParseCertificate(der)
	must(d.t, err)
	return out
}

func (d *desk) server(h http.Handler) *httptest.Server {
	d.t.Helper()
	key := newP256(d.t)
	cert := d.issue(key.Public(), func(c *x509.Certificate) {
		c.IPAddresses, c.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}, ClientAuth: tls.RequestClientCert}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	d.t.Cleanup(srv.Close)
	return srv
}

// newDesk makes a desk, and an agent that is enrolled there.
func newDesk(t *testing.T) (*desk, *Agent) {
	t.Helper()
	d := &desk{t: t, rootKey: newP256(t), signer: newP256(t), store: &values{items: map[string]manage.Item{}}, gate: &oneDevice{quarantine.Record{Device: quarantine.Device{ID: "d-1", Stage: quarantine.Quarantined}}}}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, d.rootKey.Public(), d.rootKey)
	must(t, err)
	d.root, err = x509.ParseCertificate(der)
	must(t, err)
	d.chain = []*x509.Certificate{d.issue(d.signer.Public(), func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{agentapi.OIDSigner} })}
	d.start()
	d.srv = d.server(http.HandlerFunc(d.answer))
	a, _ := newAgent(t)
	key, err := a.store.key(keyFile, nil)
	must(t, err)
	a.config.Log = a.log
	a.state.Root = d.root.Raw
	a.state.Certificate = d.issue(key.Public(), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }).Raw
	must(t, a.store.save(a.state))
	d.connect(a, d.srv.URL)
	return d, a
}

// connect makes the agent talk to a server.
func (d *desk) connect(a *Agent, url string) {
	d.t.Helper()
	cert, err := a.store.certificate(a.state)
	must(d.t, err)
	pool := x509.NewCertPool()
	pool.AddCert(d.root)
	a.api = &gateway{base: url, http: http.DefaultClient, dial: &net.Dialer{}, at: strings.TrimPrefix(url, "https://"), cert: cert,
		tls: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{cert}, ServerName: "127.0.0.1"}}
}

func (d *desk) start() {
	d.t.Helper()
	var err error
	d.Manager, err = manage.New(d.t.Context(), manage.Config{Store: d.store, Gate: d.gate, Name: "gw", Log: slog.New(slog.DiscardHandler),
		Audit: func(_ context.Context, e manage.Event) error {
			if e.Action == "command.result" {
				d.results = append(d.results, e.Detail["kind"]+" "+e.Detail["state"])
			}
			return nil
		},
		Signer: func() (crypto.Signer, []*x509.Certificate) { return d.signer, d.chain }})
	must(d.t, err)
}

func (d *desk) answer(w http.ResponseWriter, r *http.Request) {
	binding, err := r.TLS.ExportKeyingMaterial(agentapi.BindingLabel, nil, agentapi.BindingLength)
	if err != nil || len(r.TLS.PeerCertificates) == 0 {
		http.Error(w, "{}", http.StatusForbidden)
		return
	}
	d.as(w, r, manage.Peer{Record: d.gate.r, Leaf: r.TLS.PeerCertificates[0], Binding: binding})
}

// as answers somebody as that device.
func (d *desk) as(w http.ResponseWriter, r *http.Request, p manage.Peer) {
	var out any
	var err error
	switch r.URL.Path {
	case agentapi.HelloPath:
		var h agentapi.Hello
		if err = json.NewDecoder(r.Body).Decode(&h); err == nil {
			out, err = d.Hello(r.Context(), p, h)
		}
	case agentapi.ExchangePath:
		var x agentapi.Exchange
		if err = json.NewDecoder(r.Body).Decode(&x); err == nil {
			out, err = d.Exchange(r.Context(), p, x)
		}
	}
	if err != nil {
		w.WriteHeader(http.StatusConflict)
		out = agentapi.Problem{Error: err.Error()}
	}
	text, err := json.Marshal(out)
	if err == nil && d.spoil != nil {
		text = d.spoil(r.URL.Path, text)
	}
	_, _ = w.Write(text)
}

func (d *desk) order(kind string) manage.Command {
	d.t.Helper()
	o := manage.Order{Kind: kind}
	if kind == agentapi.Notify {
		o.Args = map[string]string{"text": "Please update."}
	}
	c, err := d.Issue(d.t.Context(), quarantine.Actor{Kind: "administrator", Name: "alice"}, "d-1", o)
	must(d.t, err)
	return c
}

func (d *desk) stateOf(id string) manage.State {
	for _, c := range d.List("d-1") {
		if c.ID == id {
			return c.State
		}
	}
	return ""
}

// TestCommandsAreExecutedAndTold: in one session, over a connection of its own.
func TestCommandsAreExecutedAndTold(t *testing.T) {
	d, a := newDesk(t)
	(&fakeLogind{seats: []*logindSeat{{id: "2", kind: "wayland", class: "user"}}}).serve(t)
	lock, note, erase := d.order(agentapi.Lock), d.order(agentapi.Notify), d.order(agentapi.Erase)
	must(t, a.manage(t.Context()))
	if d.stateOf(lock.ID) != manage.Done || d.stateOf(note.ID) != manage.Done || d.stateOf(erase.ID) != manage.Refused {
		t.Errorf("lock %s, notify %s, erase %s", d.stateOf(lock.ID), d.stateOf(note.ID), d.stateOf(erase.ID))
	}
	if want := []string{"lock done", "notify done", "erase refused"}; !slices.Equal(d.results, want) {
		t.Errorf("told %q, want %q", d.results, want)
	}
	st := a.show()
	if len(st.Notices) != 1 || st.Notices[0].Text != "Please update." || len(st.Commands) != 3 || !st.Commands[0].Told {
		t.Errorf("shown: %+v %+v", st.Notices, st.Commands)
	}
	if again, err := a.store.loadManaged(); err != nil || len(again.Outcomes) != 3 || len(again.Notices) != 1 || again.Executed != 3 {
		t.Errorf("kept: %+v, %v", again, err)
	}
	must(t, a.manage(t.Context()))
	if len(d.results) != 3 {
		t.Errorf("told again: %q", d.results)
	}
}

// TestLockWithoutEffectFails: a logind that answers and locks nothing makes the command a
// failure for the administrator.
func TestLockWithoutEffectFails(t *testing.T) {
	d, a := newDesk(t)
	(&fakeLogind{deaf: true, seats: []*logindSeat{{id: "2", kind: "wayland", class: "user"}}}).serve(t)
	was := deadlines[agentapi.Lock]
	deadlines[agentapi.Lock] = 300 * time.Millisecond
	defer func() { deadlines[agentapi.Lock] = was }()
	c := d.order(agentapi.Lock)
	must(t, a.manage(t.Context()))
	if d.stateOf(c.ID) != manage.Failed {
		t.Errorf("it is %s", d.stateOf(c.ID))
	}
}

// killed is what a step panics with that stands for the end of the process.
type killed struct{ at string }

// runTo holds a session until a step, where the agent dies. It reports whether it came to
// that; what is returned knows only what is on the disk.
func runTo(t *testing.T, a *Agent, d *desk, step string) (next *Agent, died bool) {
	t.Helper()
	func() {
		defer func() {
			if k, ok := recover().(killed); ok {
				died = k.at == step
			}
		}()
		a.config.Step = func(at string) {
			if at == step {
				panic(killed{at})
			}
		}
		if err := a.manage(t.Context()); err != nil {
			t.Logf("session: %v", err)
		}
	}()
	st, err := a.store.load()
	must(t, err)
	m, err := a.store.recoverManaged()
	must(t, err)
	next = newAgentOf(a.config, a.store, st, m, func() {})
	next.config.Step, next.net, next.via = nil, a.net, a.via
	d.connect(next, d.srv.URL)
	return next, died
}

// TestCommandsAreExecutedOnce: wherever the agent is killed, its next run does not execute
// the command again, and tells what is known of it.
func TestCommandsAreExecutedOnce(t *testing.T) {
	for step, want := range map[string]manage.State{"command begun": manage.Unknown, "command executed": manage.Unknown, "command kept": manage.Done, "never": manage.Done} {
		d, a := newDesk(t)
		l := &fakeLogind{seats: []*logindSeat{{id: "2", kind: "wayland", class: "user"}}}
		l.serve(t)
		c := d.order(agentapi.Lock)
		next, died := runTo(t, a, d, step)
		if died != (step != "never") {
			t.Errorf("%s: died %v", step, died)
		}
		for range 2 {
			must(t, next.manage(t.Context()))
		}
		times := 1
		if step == "command begun" {
			times = 0 // it was not come to, and is not begun again
		}
		if d.stateOf(c.ID) != want || len(l.asked()) != times {
			t.Errorf("killed at %q: %s, locked %d times; want %s, %d", step, d.stateOf(c.ID), len(l.asked()), want, times)
		}
	}
}

// perform a command as if it came in a session.
func (d *desk) performed(a *Agent, c agentapi.Command) error {
	talk := &dialogue{device: "d-1", signer: agentapi.Signer{Key: d.signer.Public()}, welcome: agentapi.Welcome{Session: c.Session}}
	return a.perform(d.t.Context(), talk, c)
}

// TestCommandsThatAreNotDue: out of sequence, expired, known, of no kind; 10,000 drawn
// ones, of which each is executed once at most, and none that is not due.
func TestCommandsThatAreNotDue(t *testing.T) {
	d, a := newDesk(t)
	now := time.Now()
	r := mathrand.New(mathrand.NewPCG(5, 6))
	session := bytes.Repeat([]byte{1}, 16)
	executed := map[string]bool{}
	var high uint64
	a.managed.Executed = 10
	high = 10
	if dir, err := os.MkdirTemp("/dev/shm", "lazaret-agent-"); err == nil { // each is kept on the disk first, which takes its time
		defer os.RemoveAll(dir)
		a.store.dir = dir
	}
	draws := 10000
	if testing.Short() {
		draws = 1000
	}
	for i := range draws {
		c := agentapi.Command{Version: 1, ID: fmt.Sprint("c-", r.IntN(3000)), Device: "d-1", Session: session, Sequence: uint64(r.Int64N(int64(high) + 4)),
			Kind: agentapi.Notify, Issued: now, Expires: now.Add(time.Hour), Args: map[string]string{"text": fmt.Sprint(i)}}
		due := !executed[c.ID] && c.Sequence > high
		switch r.IntN(6) {
		case 0:
			c.Expires, due = now.Add(-time.Duration(r.Int64N(1e15))), false
		case 1:
			c.Kind, due = "format", false
		case 2:
			c.Args, due = map[string]string{"path": "/"}, false
		}
		known := a.managed.find(c.ID) != nil
		before := len(a.managed.Notices)
		last := ""
		if before > 0 {
			last = a.managed.Notices[before-1].Text
		}
		must(t, d.performed(a, c))
		done := len(a.managed.Notices) > 0 && a.managed.Notices[len(a.managed.Notices)-1].Text != last
		if done && (!due || known) {
			t.Fatalf("number %d was executed: %+v after %d", i, c, high)
		}
		if !done && due && !known {
			t.Fatalf("number %d was not executed: %+v after %d: %+v", i, c, high, a.managed.find(c.ID))
		}
		executed[c.ID] = executed[c.ID] || done
		high = max(high, a.managed.Executed)
	}
	if len(executed) == 0 || high < 30 {
		t.Errorf("executed up to %d", high)
	}
}

// TestManInTheMiddle: who ends the device's TLS with a certificate that the organization
// issued, and speaks to the gateway over another connection, even as that device, gets
// neither to believe it: both sign the connection that they see.
func TestManInTheMiddle(t *testing.T) {
	d, a := newDesk(t)
	c := d.order(agentapi.Lock)
	leaf, err := x509.ParseCertificate(a.state.Certificate)
	must(t, err)
	// The gateway's end: it takes whoever comes for the device.
	behind := d.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		binding, err := r.TLS.ExportKeyingMaterial(agentapi.BindingLabel, nil, agentapi.BindingLength)
		if err != nil {
			t.Error(err)
		}
		d.as(w, r, manage.Peer{Record: d.gate.r, Leaf: leaf, Binding: binding})
	}))
	pool := x509.NewCertPool()
	pool.AddCert(d.root)
	through := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxConnsPerHost: 1}}
	defer through.CloseIdleConnections()
	var paths []string
	middle := d.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.URL.Path)
		resp, err := through.Post(behind.URL+r.URL.Path, "application/json", r.Body)
		if err != nil {
			http.Error(w, "{}", http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	d.connect(a, middle.URL)
	if err := a.manageOnce(t.Context()); !errors.Is(err, agentapi.ErrSignature) {
		t.Errorf("through somebody: %v", err)
	}
	if !slices.Equal(paths, []string{agentapi.HelloPath}) || d.stateOf(c.ID) != manage.Queued {
		t.Errorf("asked %v, and the command is %s", paths, d.stateOf(c.ID))
	}
	// The other half: a device's proof for one connection, on another.
	ch, err := a.client().channel(t.Context())
	must(t, err)
	defer ch.end()
	h := agentapi.Hello{Version: 1, Device: "d-1", Sequence: 100, Nonce: make([]byte, 32)}
	var w agentapi.Welcome
	must(t, ch.post(t.Context(), agentapi.HelloPath, h, &w))
	proof, err := w.Prove(ch.cert.PrivateKey.(crypto.Signer), ch.binding, h, 0)
	must(t, err)
	err = ch.post(t.Context(), agentapi.ExchangePath, agentapi.Exchange{Session: w.Session, Number: 1, Proof: proof}, &agentapi.Orders{})
	if err == nil || !strings.Contains(err.Error(), "409") || d.stateOf(c.ID) != manage.Queued {
		t.Errorf("the gateway: %v; the command is %s", err, d.stateOf(c.ID))
	}
	d.connect(a, d.srv.URL)
	(&fakeLogind{}).serve(t)
	must(t, a.manage(t.Context()))
	if d.stateOf(c.ID) != manage.Done {
		t.Errorf("without anybody between, the command is %s", d.stateOf(c.ID))
	}
}

// TestGatewayProvesItself: TLS of the organization's is not enough to order a device about.
func TestGatewayProvesItself(t *testing.T) {
	for name, spoil := range map[string]func(d *desk){
		"signed by a server": func(d *desk) {
			d.chain = []*x509.Certificate{d.issue(d.signer.Public(), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}
		},
		"by another key": func(d *desk) { d.signer = newP256(d.t) },
		"a foreign command": func(d *desk) {
			d.spoil = func(path string, answer []byte) []byte {
				var o agentapi.Orders
				if path != agentapi.ExchangePath || json.Unmarshal(answer, &o) != nil || len(o.Commands) == 0 {
					return answer
				}
				var c agentapi.Command
				must(d.t, json.Unmarshal(o.Commands[0].Payload, &c))
				var err error
				o.Commands[0], err = c.Sign(newP256(d.t))
				must(d.t, err)
				answer, err = json.Marshal(o)
				must(d.t, err)
				return answer
			}
		},
	} {
		d, a := newDesk(t)
		l := &fakeLogind{seats: []*logindSeat{{id: "2", kind: "wayland", class: "user"}}}
		l.serve(t)
		d.order(agentapi.Lock)
		spoil(d)
		if err := a.manageOnce(t.Context()); err == nil || len(l.asked()) > 0 {
			t.Errorf("%s: %v, and locked %d times", name, err, len(l.asked()))
		}
	}
}

// TestDeviceRestoredFromBackup: it goes on after what the gateway has seen, executes
// nothing a second time that the gateway knows of, and takes new commands.
func TestDeviceRestoredFromBackup(t *testing.T) {
	d, a := newDesk(t)
	l := &fakeLogind{seats: []*logindSeat{{id: "2", kind: "wayland", class: "user"}}}
	l.serve(t)
	must(t, a.manage(t.Context()))
	backup, err := os.ReadFile(filepath.Join(a.store.dir, managedFile))
	must(t, err)
	d.order(agentapi.Lock)
	must(t, a.manage(t.Context()))
	must(t, a.manage(t.Context()))
	must(t, a.store.write(managedFile, backup))
	if a.managed, err = a.store.recoverManaged(); err != nil || a.managed.Executed != 0 || a.managed.Sequence != 1 {
		t.Fatalf("restored to %+v, %v", a.managed, err)
	}
	must(t, a.manage(t.Context()))
	if a.managed.Executed != 1 || a.managed.Sequence <= 3 || len(l.asked()) != 1 {
		t.Errorf("goes on at session %d, command %d, locked %d times", a.managed.Sequence, a.managed.Executed, len(l.asked()))
	}
	c := d.order(agentapi.Lock)
	d.start() // and the gateway anew
	must(t, a.manage(t.Context()))
	if d.stateOf(c.ID) != manage.Done || len(l.asked()) != 2 {
		t.Errorf("a new command is %s, locked %d times", d.stateOf(c.ID), len(l.asked()))
	}
}

// TestWakeUps: by the control socket or with the gateway's answer, one that the gateway
// signed for this device a moment ago opens a session, once; no other does.
func TestWakeUps(t *testing.T) {
	d, a := newDesk(t)
	roused := func() bool {
		select {
		case <-a.woken:
			return true
		default:
			return false
		}
	}
	good := func() string {
		token, err := d.Wakeup("d-1")
		must(t, err)
		return token
	}
	if a.wake(good()) == nil || roused() {
		t.Error("woken by a signer that it never heard of")
	}
	a.mu.Lock()
	a.takeSigner(d.SignerChain(a.managed.signerID()))
	a.mu.Unlock()
	if d.SignerChain(a.managed.signerID()) != nil {
		t.Error("the signer is told again")
	}
	token := good()
	if st := a.order(t.Context(), Request{Op: "wake", Token: token}); st.Error != "" || !roused() {
		t.Errorf("a good one: %s", st.Error)
	}
	if a.wake(token) == nil || roused() {
		t.Error("woken again by the same")
	}
	again, err := a.store.recoverManaged()
	must(t, err)
	restarted := newAgentOf(a.config, a.store, a.state, again, func() {})
	if restarted.wake(token) == nil {
		t.Error("woken again by the same after a restart")
	}
	a.mu.Lock()
	a.takeWake(good())
	a.mu.Unlock()
	if !roused() {
		t.Error("not woken by the gateway's answer")
	}
	id := agentapi.SignerID(d.chain[0])
	for name, w := range map[string]agentapi.Wakeup{
		"another device's": {Device: "d-2", Signer: id, Time: time.Now(), Counter: 1 << 60}, "an old one": {Device: "d-1", Signer: id, Time: time.Now().Add(-time.Hour), Counter: 1 << 60},
		"one of the future": {Device: "d-1", Signer: id, Time: time.Now().Add(time.Hour), Counter: 1 << 60}, "a low counter": {Device: "d-1", Signer: id, Time: time.Now(), Counter: 1},
	} {
		token, err := w.Sign(d.signer)
		must(t, err)
		if a.wake(token) == nil || roused() {
			t.Errorf("woken by %s", name)
		}
	}
	foreign, err := agentapi.Wakeup{Device: "d-1", Signer: id, Time: time.Now(), Counter: 1 << 60}.Sign(newP256(t))
	must(t, err)
	if a.wake(foreign) == nil || a.wake("") == nil || a.wake("AAAA") == nil || roused() {
		t.Error("woken by what nobody signed")
	}
}
