package claim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/appliance"
)

var silent = slog.New(slog.DiscardHandler)

// machine is an unclaimed machine on loopback.
type machine struct {
	code    Code
	keeper  *Keeper
	d       *Door
	address string
	print   string
	ended   chan error // of the keeper
	door    chan error

	mu    sync.Mutex
	made  []Request
	kept  int
	block chan struct{} // where not nil, making waits for it
	fail  error
}

// newMachine starts one; change may be nil.
func newMachine(t *testing.T, change func(*KeeperConfig)) *machine {
	t.Helper()
	m := &machine{code: DrawCode(), ended: make(chan error, 1), door: make(chan error, 1)}
	serving := make(chan string, 1)
	cfg := KeeperConfig{
		Code: m.code, Make: m.make, Log: silent,
		Keep: func(context.Context) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.kept++
			return nil
		},
		Serving: func(print string) { serving <- print },
		About: func() About {
			return About{Version: "9.9.9", Links: []Card{{Name: "eth0", MAC: "02:00:00:00:00:01", Up: true}, {Name: "eth1", MAC: "02:00:00:00:00:02"}}}
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if m.keeper, err = NewKeeper(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.address = l.Addr().String()
	ours, theirs := net.Pipe()
	ready := make(chan struct{})
	d, err := NewDoor(DoorConfig{Listeners: []net.Listener{l}, Keeper: theirs, Ready: func() { close(ready) }, Log: silent})
	if err != nil {
		t.Fatal(err)
	}
	m.d = d
	ctx, cancel := context.WithCancel(t.Context())
	go func() { m.ended <- m.keeper.Run(ctx, ours) }()
	go func() { m.door <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-m.door
		<-m.ended
	})
	m.print = <-serving
	<-ready
	return m
}

// end waits for both ends of the claim, and leaves their ends for the test's.
func (m *machine) end() (keeper, door error) {
	keeper, door = <-m.ended, <-m.door
	m.ended <- keeper
	m.door <- door
	return keeper, door
}

func (m *machine) make(ctx context.Context, r Request, step func(string)) (Answer, error) {
	m.mu.Lock()
	m.made = append(m.made, r)
	block, fail := m.block, m.fail
	m.mu.Unlock()
	step("Making it.")
	if block != nil {
		select {
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		case <-block:
		}
	}
	if fail != nil {
		return Answer{}, fail
	}
	chain, root, err := issue(r.CSR)
	if err != nil {
		return Answer{}, err
	}
	return Answer{Name: "gateway", Administrator: chain, Root: root, API: "https://gw.example.com:8443", Enroll: "https://gw.example.com", Token: "lzt_secret", RootSHA256: strings.Repeat("ab", 32)}, nil
}

// refill gives everybody all tries again.
func (m *machine) refill() {
	m.d.limit.mu.Lock()
	defer m.d.limit.mu.Unlock()
	clear(m.d.limit.used)
}

func (m *machine) count() (made, kept int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.made), m.kept
}

// issue makes a root, an authority and an administrator's certificate for a CSR's key.
func issue(csr []byte) (chain [][]byte, root []byte, err error) {
	public, err := CheckCSR(csr)
	if err != nil {
		return nil, nil, err
	}
	var parent *x509.Certificate
	var signer *ecdsa.PrivateKey
	var all [][]byte
	for i, name := range []string{"root", "administrators", "administrator"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
			IsCA: i < 2, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		of := &key.PublicKey
		if i == 2 {
			of, c.KeyUsage = public, x509.KeyUsageDigitalSignature
		}
		if parent == nil {
			parent, signer = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, of, signer)
		if err != nil {
			return nil, nil, err
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			return nil, nil, err
		}
		signer, all = key, append(all, der)
	}
	return [][]byte{all[2], all[1]}, all[0], nil
}

func setup() appliance.Setup {
	return appliance.Setup{EnrollNames: []string{"gw.example.com"}, Management: []string{"192.0.2.10 tcp/443"}}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func request(t testing.TB) []byte {
	t.Helper()
	text, err := NewRequest(Request{Setup: setup()}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func dial(t *testing.T, m *machine, text []byte) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), m.address, m.code, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// refused is the kind of a refusal, or "".
func refused(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Kind
	}
	return ""
}
