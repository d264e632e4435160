package attest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"lazaret/internal/testneed"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// chipset is a software TPM: a process of swtpm with its state in a directory.
type chipset struct {
	dir string
	end func()
	*Device
}

// unclosed is a connection that outlives a conversation.
type unclosed struct{ transport.TPM }

func (unclosed) Close() error { return nil }

// powerOn starts a software TPM; one on the same directory is the
// same TPM after a power cycle.
func powerOn(t *testing.T, dir string) *chipset {
	t.Helper()
	conn, end := testneed.TPM(t, dir)
	tpm := unclosed{transport.FromReadWriter(conn)}
	return &chipset{dir: dir, end: end, Device: newDevice(func() (transport.TPMCloser, error) { return tpm, nil })}
}

// powerCycle is what a reboot does to a TPM.
func (c *chipset) powerCycle(t *testing.T) *chipset {
	t.Helper()
	must(t, c.talk(t.Context(), func(tpm transport.TPM) error {
		_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(tpm)
		return err
	}))
	c.end()
	return powerOn(t, c.dir)
}

// extend measures something into a PCR.
func (c *chipset) extend(t *testing.T, pcr uint32) {
	t.Helper()
	sum := sha256.Sum256([]byte("another boot loader"))
	must(t, c.talk(t.Context(), func(tpm transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: sum[:]}}},
		}.Execute(tpm)
		return err
	}))
}

// memory is a Store.
type memory struct {
	mu     sync.Mutex
	trust  Trust
	states map[string]State
	saves  int
}

func (m *memory) Trust(context.Context) (Trust, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trust, nil
}

func (m *memory) State(_ context.Context, device string) (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.states[device]
	if !ok {
		return State{}, ErrNone
	}
	return s, nil
}

func (m *memory) Save(_ context.Context, device string, s State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states[device] = s
	m.saves++
	return nil
}

// gateway is a verifier with its store and a clock that a test moves.
type gateway struct {
	*Verifier
	*memory
	now time.Time
}

func newGateway(trust Trust) *gateway {
	g := &gateway{memory: &memory{trust: trust, states: map[string]State{}}, now: time.Now()}
	g.Verifier = NewVerifier(Config{Store: g.memory, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return g.now }})
	return g
}

var channel = bytes.Repeat([]byte{7}, 32)

// ask gets a challenge for a device from the gateway.
func ask(t *testing.T, g *gateway, d *Device, device string) (Question, error) {
	t.Helper()
	for _, endorsement := range []bool{false, true} {
		hello, err := d.Hello(t.Context(), device, endorsement)
		must(t, err)
		text, err := g.Challenge(t.Context(), device, hello, channel)
		must(t, err)
		q, err := ParseChallenge(text)
		if err != ErrEndorse {
			return q, err
		}
	}
	t.Fatal("asked for the endorsement twice")
	return Question{}, nil
}

// answer has the TPM answer a question that must be there.
func answer(t *testing.T, g *gateway, d *Device, device string, facts map[string]string) json.RawMessage {
	t.Helper()
	q, err := ask(t, g, d, device)
	must(t, err)
	e, err := d.Answer(t.Context(), device, q, channel, facts)
	must(t, err)
	return e
}

// attested has a device attest and says whether the gateway takes it, and what it says.
func attested(t *testing.T, g *gateway, d *Device, device string) (bool, string) {
	t.Helper()
	facts := map[string]string{"os.name": "debian", "disk.encrypted": "true"}
	return judged(g.Check(t.Context(), device, answer(t, g, d, device, facts), facts))
}

func judged(add map[string]string, note string) (bool, string) {
	if add["tpm.attested"] == "true" {
		return add["tpm.present"] == "true" && len(add) == 2, note
	}
	if add["tpm.attested"] != "false" || len(add) != 1 {
		return true, "neither yes nor no: " + note
	}
	return false, note
}

// factory is a maker of TPMs with a CA of its own.
type factory struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newFactory(t *testing.T, name string) factory {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return factory{key, cert}
}

func (f factory) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.cert.Raw}))
}

// certify makes an endorsement certificate as the TCG's profile wants it: the alternative
// name critical and nothing but a directory name.
func (f factory) certify(t *testing.T, ek crypto.PublicKey, change func(*x509.Certificate)) []byte {
	t.Helper()
	model, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: []byte{0x30, 0x00}}})
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour),
		BasicConstraintsValid: true, UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: model}}}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, f.cert, ek, f.key)
	must(t, err)
	return der
}

// install writes a certificate into the TPM's memory, with padding as some makers leave it.
func (c *chipset) install(t *testing.T, index tpm2.TPMHandle, certificate []byte) {
	t.Helper()
	data := append(bytes.Clone(certificate), bytes.Repeat([]byte{0xff}, 40)...)
	must(t, c.talk(t.Context(), func(tpm transport.TPM) error {
		public := tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
			Attributes: tpm2.TPMANV{OwnerWrite: true, AuthRead: true, OwnerRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary}}
		if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(public)}).Execute(tpm); err != nil {
			return err
		}
		for offset := 0; offset < len(data); offset += 512 {
			p, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
			if err != nil {
				return err
			}
			if _, err := (tpm2.NVWrite{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NVIndex: tpm2.NamedHandle{Handle: index, Name: p.NVName},
				Data: tpm2.TPM2BMaxNVBuffer{Buffer: data[offset:min(len(data), offset+512)]}, Offset: uint16(offset)}).Execute(tpm); err != nil {
				return err
			}
		}
		return nil
	}))
}

// ekOf is the TPM's endorsement key.
func (c *chipset) ekOf(t *testing.T, template tpm2.TPMTPublic) (key crypto.PublicKey) {
	t.Helper()
	must(t, c.talk(t.Context(), func(tpm transport.TPM) error {
		public, err := publicOf(tpm, template)
		if err != nil {
			return err
		}
		_, key, err = parseEK(public)
		return err
	}))
	return key
}
