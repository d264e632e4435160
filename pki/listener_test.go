package pki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a KeyStore that can fail.
type memory struct {
	mu    sync.Mutex
	blob  []byte
	saves int
	fail  error
}

func (m *memory) Load(context.Context) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, m.fail
	}
	if m.blob == nil {
		return nil, fs.ErrNotExist
	}
	return m.blob, nil
}

// count returns how often Save succeeded.
func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saves
}

// failWith makes every call fail until it is given nil.
func (m *memory) failWith(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *memory) Save(_ context.Context, blob []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.blob, m.saves = slices.Clone(blob), m.saves+1
	return nil
}

// listenerConfig makes an authority of its own, on the clock of the test.
func listenerConfig(t *testing.T, store KeyStore) ListenerConfig {
	t.Helper()
	h, err := NewHierarchy(HierarchyConfig{Organization: "Examples"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{Root: h.Root.Certificate, Devices: h.Devices, Servers: h.Servers, Administrators: h.Administrators})
	if err != nil {
		t.Fatal(err)
	}
	return ListenerConfig{Authority: a, Name: "gateway", Names: []string{"gw.example.com"},
		IPs:  []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		Life: 90 * 24 * time.Hour, Store: store, Log: slog.New(slog.DiscardHandler)}
}

func newListener(t *testing.T, c ListenerConfig) *Listener {
	t.Helper()
	l, err := NewListener(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run starts l.Run and stops it when the test ends.
func run(t *testing.T, l *Listener) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func TestListenerRenewsAtTwoThirds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		l := newListener(t, listenerConfig(t, store))
		run(t, l)
		first, keys := l.Certificate(), l.Keys()
		if len(keys) != 2 || keys[0] == keys[1] || CertificateSPKISum(first) != keys[0] {
			t.Fatalf("keys %x", keys)
		}
		time.Sleep(60*24*time.Hour - time.Second) // two thirds of 90 days
		synctest.Wait()
		if l.Certificate() != first || store.count() != 1 {
			t.Fatal("renewed early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		second := l.Certificate()
		if second == first || !second.NotAfter.After(first.NotAfter) || store.count() != 2 {
			t.Fatal("not renewed at two thirds of its life")
		}
		after := l.Keys()
		if after[0] != keys[1] || CertificateSPKISum(second) != keys[1] {
			t.Error("the next key did not become the current one")
		}
		if after[1] == keys[0] || after[1] == keys[1] {
			t.Error("no new next key")
		}
		time.Sleep(365 * 24 * time.Hour) // a year: a renewal every 60 days
		synctest.Wait()
		if store.count() != 8 {
			t.Errorf("saved %d times", store.count())
		}
		if err := l.config.Authority.VerifyServer(l.Certificate(), time.Now()); err != nil {
			t.Error(err)
		}
	})
}

func TestListenerComesBackWithItsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		c := listenerConfig(t, store)
		first := newListener(t, c)
		again := newListener(t, c)
		if !slices.Equal(first.Keys(), again.Keys()) || !again.Certificate().Equal(first.Certificate()) || store.count() != 1 {
			t.Error("a restart changed keys or certificate")
		}
		c.Names = append(c.Names, "vpn.example.com")
		renamed := newListener(t, c)
		if !slices.Equal(first.Keys(), renamed.Keys()) {
			t.Error("a new name changed the keys")
		}
		if err := renamed.Certificate().VerifyHostname("vpn.example.com"); err != nil {
			t.Error(err)
		}
		for _, edit := range []func(*ListenerConfig){
			func(c *ListenerConfig) { c.Names = []string{"gw.example.com"} },
			func(c *ListenerConfig) { c.IPs = c.IPs[:1] },
			func(c *ListenerConfig) { c.Name = "other" },
			func(c *ListenerConfig) { c.Authority = listenerConfig(t, store).Authority },
		} {
			before := store.count()
			edit(&c)
			if l := newListener(t, c); store.count() != before+1 || !slices.Equal(first.Keys(), l.Keys()) {
				t.Error("a change of configuration was not taken in, or changed the keys")
			}
		}
		var saved savedKeys
		if err := json.Unmarshal(store.blob, &saved); err != nil {
			t.Fatal(err)
		}
		saved.Current, saved.Next = saved.Next, saved.Current // the certificate is now for the other key
		swapped, err := json.Marshal(saved)
		if err != nil {
			t.Fatal(err)
		}
		other := c
		other.Store = &memory{blob: swapped}
		if l := newListener(t, other); CertificateSPKISum(l.Certificate()) != first.Keys()[1] {
			t.Error("shows a certificate without its key")
		}
		time.Sleep(100 * 24 * time.Hour) // away until after the end
		late := newListener(t, c)
		if !slices.Equal(first.Keys(), late.Keys()) {
			t.Error("an outage changed the keys")
		}
		if err := c.Authority.VerifyServer(late.Certificate(), time.Now()); err != nil {
			t.Error(err)
		}
		time.Sleep(70 * 24 * time.Hour) // away until after two thirds
		run(t, newListener(t, c))
		synctest.Wait()
		if due := newListener(t, c); due.Keys()[0] != first.Keys()[1] {
			t.Error("an overdue renewal waited")
		}
	})
}

func TestListenerKeepsShowingWhenRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		var log bytes.Buffer
		c := listenerConfig(t, store)
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		l := newListener(t, c)
		run(t, l)
		first, keys := l.Certificate(), l.Keys()
		store.failWith(errors.New("disk full"))
		time.Sleep(61 * 24 * time.Hour)
		synctest.Wait()
		if l.Certificate() != first || !slices.Equal(l.Keys(), keys) {
			t.Error("shows keys that were not saved")
		}
		if !strings.Contains(log.String(), "disk full") {
			t.Error("the failure is not in the log")
		}
		store.failWith(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if l.Certificate() == first || l.Keys()[0] != keys[1] {
			t.Error("not tried again")
		}
	})
}

// TestListenerStopsAtItsAuthoritysEnd would not end if renewals followed each other ever faster.
func TestListenerStopsAtItsAuthoritysEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		h, err := NewHierarchy(HierarchyConfig{Organization: "Examples", IssuerLife: 100 * 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		c := listenerConfig(t, store)
		if c.Authority, err = New(Config{Root: h.Root.Certificate, Devices: h.Devices, Servers: h.Servers, Administrators: h.Administrators}); err != nil {
			t.Fatal(err)
		}
		l := newListener(t, c)
		run(t, l)
		time.Sleep(99 * 24 * time.Hour)
		synctest.Wait()
		if store.count() != 2 || !l.Certificate().NotAfter.Equal(h.Servers.Certificate.NotAfter) {
			t.Errorf("saved %d times, ends %s", store.count(), l.Certificate().NotAfter)
		}
	})
}

func TestListenerShortLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		c := listenerConfig(t, store)
		c.Life = time.Minute
		l := newListener(t, c)
		run(t, l)
		for range 60 {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if err := c.Authority.VerifyServer(l.Certificate(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if store.count() != 16 { // one at the start, one each 40 s
			t.Errorf("saved %d times in ten minutes", store.count())
		}
	})
}

func TestNewListenerRefuses(t *testing.T) {
	good := &memory{}
	c := listenerConfig(t, good)
	newListener(t, c)
	for name, edit := range map[string]func(*ListenerConfig){
		"no authority":     func(c *ListenerConfig) { c.Authority = nil },
		"no store":         func(c *ListenerConfig) { c.Store = nil },
		"no log":           func(c *ListenerConfig) { c.Log = nil },
		"no life":          func(c *ListenerConfig) { c.Life = 0 },
		"no names":         func(c *ListenerConfig) { c.Names, c.IPs, c.Store = nil, nil, &memory{} },
		"broken store":     func(c *ListenerConfig) { c.Store = &memory{fail: errors.New("gone")} },
		"garbage":          func(c *ListenerConfig) { c.Store = &memory{blob: []byte("garbage")} },
		"empty":            func(c *ListenerConfig) { c.Store = &memory{blob: []byte("{}")} },
		"another version":  func(c *ListenerConfig) { c.Store = edited(good, `"v":1`, `"v":2`) },
		"no current key":   func(c *ListenerConfig) { c.Store = edited(good, `"current":"`, `"currant":"`) },
		"no next key":      func(c *ListenerConfig) { c.Store = edited(good, `"next":"`, `"nixt":"`) },
		"no certificate":   func(c *ListenerConfig) { c.Store = edited(good, `"certificate":"`, `"x":"`) },
		"cut before saved": func(c *ListenerConfig) { c.Store = &memory{blob: good.blob[:len(good.blob)/2]} },
	} {
		changed := c
		edit(&changed)
		if l, err := NewListener(t.Context(), changed); err == nil || l != nil {
			t.Errorf("%s: accepted", name)
		} else if m, ok := changed.Store.(*memory); ok && m != nil && m != good && m.count() != 0 {
			t.Errorf("%s: keys were replaced", name)
		}
	}
}

func edited(m *memory, old, replacement string) *memory {
	return &memory{blob: bytes.Replace(m.blob, []byte(old), []byte(replacement), 1)}
}

// TestListenerInTLS shakes hands with a client that trusts the root alone.
func TestListenerInTLS(t *testing.T) {
	c := listenerConfig(t, &memory{})
	l := newListener(t, c)
	near, far := net.Pipe()
	defer near.Close()
	server := tls.Server(far, &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: l.GetCertificate})
	result := make(chan error, 1)
	go func() { result <- server.Handshake() }()
	client := tls.Client(near, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: c.Authority.RootPool(), ServerName: "192.0.2.1"})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	got := client.ConnectionState().PeerCertificates
	if len(got) != 2 || CertificateSPKISum(got[0]) != l.Keys()[0] || !bytes.Equal(got[1].Raw, c.Authority.Issuing(Server).Raw) {
		t.Errorf("chain of %d", len(got))
	}
	if _, err := got[0].Verify(x509.VerifyOptions{Roots: c.Authority.DevicePool(), Intermediates: c.Authority.RootPool()}); err == nil {
		t.Error("the server's certificate passes as a device's")
	}
}
