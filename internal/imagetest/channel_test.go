package imagetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lazaret/appliance/update"
	"lazaret/image"
	"lazaret/image/release"
	"lazaret/internal/console/api"
	"lazaret/internal/vm"
)

// updatesName is the channel's server, as its certificate has it.
const updatesName = "updates.test"

// mirror is a channel's server, and the proxy by which alone the gateway goes out to it.
type mirror struct {
	dir       string // what it serves
	authority []byte // who vouches for it, PEM
	proxy     string // its URL, as the guest reaches it
	strange   atomic.Bool
	asked     atomic.Int64 // requests it answered
	elsewhere atomic.Int64 // that the proxy was asked to go
}

// authority makes one, and a certificate of it for the server.
func authority(t *testing.T) (root []byte, leaf tls.Certificate) {
	t.Helper()
	sign := func(c *x509.Certificate, by *x509.Certificate, key, with *ecdsa.PrivateKey) []byte {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), with)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	own, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of updates"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der := sign(ca, ca, key, key)
	if ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	server := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{updatesName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{sign(server, ca, own, key)}, PrivateKey: own}
}

func newMirror(t *testing.T) *mirror {
	t.Helper()
	m := &mirror{dir: t.TempDir()}
	var known, stranger tls.Certificate
	m.authority, known = authority(t)
	_, stranger = authority(t)
	files := http.StripPrefix("/stable/", http.FileServer(http.Dir(m.dir)))
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.asked.Add(1)
		files.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if m.strange.Load() {
			return &stranger, nil
		}
		return &known, nil
	}}
	s.StartTLS()
	t.Cleanup(s.Close)
	p := httptest.NewServer(m.through(s.Listener.Addr().String()))
	t.Cleanup(p.Close)
	_, port, err := net.SplitHostPort(p.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	m.proxy = fmt.Sprintf("http://%s:%s", host, port)
	return m
}

// through is a proxy (RFC 9110, 9.3.6) that reaches the server under its name, and nothing else.
func (m *mirror) through(to string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != updatesName+":443" {
			m.elsewhere.Add(1)
			http.Error(w, "not from here", http.StatusForbidden)
			return
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			http.Error(w, "not there", http.StatusBadGateway)
			return
		}
		defer server.Close()
		w.WriteHeader(http.StatusOK)
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		var both sync.WaitGroup
		both.Go(func() { io.Copy(server, buffered); server.(*net.TCPConn).CloseWrite() })
		io.Copy(conn, server) // until the server ends it, or the guest is gone
		conn.Close()
		both.Wait()
	})
}

// channel is the life of a machine that keeps itself up to date.
type channel struct {
	*life
	*mirror
	mkimage string
	bundle  string // in the channel's directory
}

// sign has mkimage sign the channel's list as it would have at that time.
func (c *channel) sign(t *testing.T, at time.Time, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.mkimage, append([]string{"channel", "--dir", c.mirror.dir, "--key", updateKey()}, append(args, c.bundle)...)...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", at.Unix()))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mkimage channel: %v\n%s", err, text)
	}
}

// asks has the machine ask the channel, and returns what it makes of that.
func (c *channel) asks(t *testing.T) api.Machine {
	t.Helper()
	_, err := c.ask(soon(t), c.admin, "POST", "/api/v1/machine/updates/check", nil, nil)
	var m api.Machine
	c.must(t, "GET", "/api/v1/machine", nil, &m)
	if (err == nil) != (m.Update.Problem == "") {
		t.Errorf("asking the channel: %v; the machine says %q", err, m.Update.Problem)
	}
	return m
}

// refused wants a channel that is not believed, for a reason.
func (c *channel) refused(t *testing.T, what, says, available string) {
	t.Helper()
	m := c.asks(t)
	if u := m.Update; !strings.Contains(u.Problem, says) || u.Available != available {
		t.Errorf("a channel that is %s: problem %q, available %q; want %q and %q", what, u.Problem, u.Available, says, available)
	} else {
		t.Logf("a channel that is %s: %s", what, u.Problem)
	}
}

// TestChannel has a machine keep itself up to date by a channel on a server of one's own,
// through a proxy: it believes nothing but what is signed, fresh and not older than what it
// saw before, tells that it is behind, and installs the new version in its window.
func TestChannel(t *testing.T) {
	long(t)
	key := updateKey()
	if _, err := release.LoadKey(key); err != nil {
		t.Skipf("needs the key that the image takes updates from: %v", err)
	}
	m := newMirror(t)
	before, after := ofOurs(t, image.Config{Version: "0.1.0", Authorities: m.authority}), ofOurs(t, image.Config{Version: "0.1.1", Authorities: m.authority})
	c := &channel{mirror: m, mkimage: program(t, "./cmd/mkimage"), bundle: "lazaret-0.1.1-amd64-cloud.update"}
	cmd := exec.CommandContext(t.Context(), c.mkimage, "bundle", "--uki", after.UKI, "--key", key, "--version", "0.1.1", "-o", filepath.Join(m.dir, c.bundle))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mkimage bundle: %v\n%s", err, text)
	}
	c.life = newLife(t, func(v *vm.Config) {
		patiently(v)
		v.Disks, v.Limit = []vm.Disk{{Path: vm.Copy(t, before.Raw, 0)}}, 40*time.Minute
	})
	c.args = []string{"--proxy", m.proxy}
	c.turnOn()
	c.live(t, step{"Claim", c.claim}, step{"Disbelief", c.disbelief}, step{"Behind", c.behind}, step{"RolledBack", c.rolledBack}, step{"Window", c.window}, step{"Remembers", c.remembers})
}

// disbelief: what stands in for the channel and is not is not believed, and says why.
func (c *channel) disbelief(t *testing.T) {
	awaitsBlessed(t, c.life, "0.1.0")
	c.must(t, "PUT", "/api/v1/machine/updates", api.MachineUpdates{Channel: "https://" + updatesName + "/stable"}, nil)
	now := time.Now()
	list := filepath.Join(c.mirror.dir, update.ChannelFile)
	c.sign(t, now)
	c.strange.Store(true)
	c.refused(t, "of a server that nobody vouches for", "certificate", "")
	c.strange.Store(false)
	good, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	write := func(b []byte) {
		if err := os.WriteFile(list, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("{}"))
	c.refused(t, "not signed", "", "")
	changed := append([]byte{}, good...)
	changed[len(changed)/2] ^= 1
	write(changed)
	c.refused(t, "changed", "", "")
	write(byStranger(t, good))
	c.refused(t, "signed by a stranger", "", "")
	c.sign(t, now.Add(-30*24*time.Hour), "--fresh", "336h")
	c.refused(t, "out of date", "was good until", "")
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	c.refused(t, "not there", "404", "")
	if n := c.elsewhere.Load(); n != 0 {
		t.Errorf("the proxy was asked %d times for something else", n)
	}
}

// byStranger is a list signed anew, by somebody whom no image knows.
func byStranger(t *testing.T, list []byte) []byte {
	t.Helper()
	keys, err := update.LoadKeys(updateKey() + release.PublicSuffix)
	if err != nil {
		t.Fatal(err)
	}
	c, err := update.OpenChannel(list, keys, time.Now(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := c.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// behind: a machine that does not update by itself tells that there is a newer version.
func (c *channel) behind(t *testing.T) {
	c.sign(t, time.Now(), "--hours", "0")
	m := c.asks(t)
	if u := m.Update; u.Available != "0.1.1" || u.Problem != "" || u.Since.IsZero() || u.Staged != "" || m.Version != "0.1.0" {
		t.Fatalf("the machine says %+v of the channel", u)
	}
	t.Logf("version 0.1.0 runs, and knows of %s since %v", m.Update.Available, m.Update.Since)
}

// rolledBack: a list that was good once is not believed again.
func (c *channel) rolledBack(t *testing.T) {
	c.sign(t, time.Now().Add(-24*time.Hour))
	c.refused(t, "rolled back", "a newer one was seen before", "0.1.1")
}

// window: told to, the machine installs the version by itself, in its window.
func (c *channel) window(t *testing.T) {
	now := time.Now().UTC()
	c.sign(t, now, "--hours", "0")
	c.must(t, "PUT", "/api/v1/machine/updates", api.MachineUpdates{
		Channel: "https://" + updatesName + "/stable", Automatic: true,
		Window: fmt.Sprintf("%s-%s", now.Add(-time.Hour).Format("15:04"), now.Add(6*time.Hour).Format("15:04")),
	}, nil)
	if u := c.asks(t).Update; u.Problem != "" {
		t.Fatal(u.Problem)
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute) // it looks every five minutes
	defer cancel()
	if err := c.v.Wait(ctx); err != nil {
		t.Fatalf("waiting for the machine to install the update: %v", err)
	}
	t.Logf("installed by itself after %v", time.Since(begin).Round(time.Second))
	c.turnsOn()
	awaits(t, c.v, "the new version enforces", func(w map[string]string) bool { return ready(w) && w["version"] == "0.1.1" })
	c.enforces(t)
	awaitsBlessed(t, c.life, "0.1.1")
	if u := c.asks(t).Update; u.Available != "" || u.Problem != "" || u.Last != "version 0.1.1 followed version 0.1.0 and was found well" {
		t.Errorf("after the update the machine says %+v", u)
	}
}

// remembers: the version after still knows which list was the newest.
func (c *channel) remembers(t *testing.T) {
	c.sign(t, time.Now().Add(-24*time.Hour))
	c.refused(t, "rolled back after a restart", "a newer one was seen before", "")
}
