package attest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// State is what the gateway remembers of one device's TPM.
type State struct {
	Version     int        `json:"v"`
	EK          []byte     `json:"ek"`                    // TPMT_PUBLIC
	Certificate []byte     `json:"certificate,omitempty"` // of the EK, DER
	AK          []byte     `json:"ak"`
	Since       time.Time  `json:"since"`          // when the TPM was bound
	Baseline    Registers  `json:"baseline"`       // the PCRs that are right
	Seen        *Registers `json:"seen,omitempty"` // the last ones that differed from it
	SeenAt      time.Time  `json:"seen_at,omitzero"`
	Clock       Clock      `json:"clock"`

	// Revision is the store's, of what was read; zero: nothing was there. Save fails where
	// the stored one has moved on.
	Revision int64 `json:"-"`
}

// ErrNone reports a device of whose TPM nothing is known.
var ErrNone = errors.New("this device has never attested")

// Store keeps states and the trust.
type Store interface {
	Trust(ctx context.Context) (Trust, error)
	// State returns ErrNone where there is none.
	State(ctx context.Context, device string) (State, error)
	Save(ctx context.Context, device string, s State) error
}

// Config says what a Verifier works with.
type Config struct {
	Store Store            // required
	Now   func() time.Time // optional: time.Now
	Log   *slog.Logger     // required
}

// Bounds of what waits for an answer.
const (
	challengeLife = 2 * time.Minute
	maxPending    = 10000
)

// clockStep is by how much a TPM's clock advances before it is written down again: a
// report must not cost a write each. A nonce is good once, whatever the clock says.
const clockStep = uint64(time.Hour / time.Millisecond)

// Verifier hands out challenges and judges the answers. It is safe for concurrent use.
type Verifier struct {
	cfg Config

	mu      sync.Mutex
	pending map[string]pending // by device, one each
}

// pending is a challenge that was not answered yet.
type pending struct {
	hello   Hello
	key     ak
	nonce   []byte
	channel []byte
	secret  []byte // that the TPM must open; nil: the AK is known
	until   time.Time
}

// NewVerifier makes a verifier.
func NewVerifier(c Config) *Verifier {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Verifier{cfg: c, pending: map[string]pending{}}
}

// ErrHello reports a hello that cannot be answered.
var ErrHello = errors.New("the hello cannot be answered")

// Challenge answers a device's hello that came over a TLS channel with that binding (RFC
// 9266). An error that is ErrHello is the device's fault.
func (v *Verifier) Challenge(ctx context.Context, device string, hello json.RawMessage, channel []byte) (json.RawMessage, error) {
	c, err := v.challenge(ctx, device, hello, channel)
	if err != nil {
		return nil, fmt.Errorf("challenging the TPM of device %s: %w", device, err)
	}
	c.Version = version
	return json.Marshal(c)
}

func (v *Verifier) challenge(ctx context.Context, device string, hello []byte, channel []byte) (Challenge, error) {
	trust, err := v.cfg.Store.Trust(ctx)
	if err != nil {
		return Challenge{}, err
	}
	if trust.Off() {
		return Challenge{Off: "attestation is off: no TPM is trusted"}, nil
	}
	var h Hello
	if err := decode(hello, &h); err != nil {
		return Challenge{}, fmt.Errorf("%w: %w", ErrHello, err)
	}
	if h.Version != version {
		return Challenge{}, fmt.Errorf("%w: %w", ErrHello, errVersion)
	}
	if len(h.AK) == 0 {
		return Challenge{}, nil // a Knock
	}
	p := pending{hello: h, channel: bytes.Clone(channel), nonce: make([]byte, nonceSize), until: v.cfg.Now().Add(challengeLife)}
	if p.key, err = parseAK(h.AK); err != nil {
		return Challenge{}, fmt.Errorf("%w: %w", ErrHello, err)
	}
	_, _ = rand.Read(p.nonce) // never fails
	state, err := v.cfg.Store.State(ctx, device)
	if err != nil && !errors.Is(err, ErrNone) {
		return Challenge{}, err
	}
	out := Challenge{Nonce: p.nonce}
	if err != nil || !bytes.Equal(state.AK, h.AK) {
		if len(h.EK) == 0 {
			return Challenge{}, nil
		}
		if off := v.admits(trust, state, h); off != nil {
			return Challenge{Off: off.Error()}, nil
		}
		p.secret = make([]byte, secretSize)
		_, _ = rand.Read(p.secret)
		if out.Credential, out.Secret, err = makeCredential(h.EK, p.key, p.secret); err != nil {
			return Challenge{}, fmt.Errorf("%w: %w", ErrHello, err)
		}
	}
	return out, v.wait(device, p)
}

// admits says why a TPM may not become the device's.
func (v *Verifier) admits(t Trust, s State, h Hello) error {
	_, key, err := parseEK(h.EK)
	if err != nil {
		return err
	}
	if len(s.EK) > 0 && !bytes.Equal(s.EK, h.EK) {
		return errors.New("this is another TPM than the one that the device had: an administrator must have it forgotten first")
	}
	return t.endorsed(key, h.Certificate, v.cfg.Now())
}

// makeCredential seals a secret so that only the TPM with this EK opens it, and only if it
// has this AK (TPM2_MakeCredential, which needs no TPM).
func makeCredential(ek []byte, key ak, secret []byte) (credential, sealed []byte, err error) {
	public, _, err := parseEK(ek)
	if err != nil {
		return nil, nil, err
	}
	to, err := tpm2.ImportEncapsulationKey(&public)
	if err != nil {
		return nil, nil, err
	}
	return tpm2.CreateCredential(rand.Reader, to, key.name, secret)
}

// wait keeps a challenge until it is answered or over.
func (v *Verifier) wait(device string, p pending) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, again := v.pending[device]; !again && len(v.pending) >= maxPending {
		now := v.cfg.Now()
		for d, old := range v.pending {
			if now.After(old.until) {
				delete(v.pending, d)
			}
		}
		if len(v.pending) >= maxPending {
			return errors.New("too many challenges are open")
		}
	}
	v.pending[device] = p
	return nil
}

// take returns a device's challenge; it is open no more.
func (v *Verifier) take(device string) (pending, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p, ok := v.pending[device]
	delete(v.pending, device)
	switch {
	case !ok:
		return p, errors.New("no challenge is open: its nonce was used, or never given")
	case v.cfg.Now().After(p.until):
		return p, errors.New("the challenge was answered too late")
	}
	return p, nil
}

// Check judges the evidence that came with a device's report of these facts. It returns
// the facts that the gateway adds to it, and a sentence for people.
func (v *Verifier) Check(ctx context.Context, device string, evidence json.RawMessage, facts map[string]string) (map[string]string, string) {
	note, err := v.check(ctx, device, evidence, facts)
	if err != nil {
		v.cfg.Log.Warn("attestation refused", "device", device, "err", err)
		return map[string]string{"tpm.attested": "false"}, "TPM not attested: " + err.Error()
	}
	return map[string]string{"tpm.attested": "true", "tpm.present": "true"}, "TPM attested: " + note
}

func (v *Verifier) check(ctx context.Context, device string, evidence []byte, facts map[string]string) (string, error) {
	p, err := v.take(device)
	if err != nil {
		return "", err
	}
	var e Evidence
	if err := decode(evidence, &e); err != nil {
		return "", fmt.Errorf("reading the evidence: %w", err)
	}
	if e.Version != version {
		return "", errVersion
	}
	q, err := p.key.verify(e, qualifying(p.nonce, p.channel, device, facts))
	if err != nil {
		return "", err
	}
	trust, err := v.cfg.Store.Trust(ctx)
	if err != nil {
		return "", err
	}
	if trust.Off() {
		return "", errors.New("attestation is off: no TPM is trusted")
	}
	if p.secret != nil {
		return v.tie(ctx, device, trust, p, e, q)
	}
	return v.compare(ctx, device, trust, p, e, q)
}

// tie makes the AK the device's: it is in the TPM with the EK. The PCRs of a device's first
// quote are the right ones. Another AK of the TPM that it has is judged by what is
// remembered: a new key makes no PCR right.
func (v *Verifier) tie(ctx context.Context, device string, t Trust, p pending, e Evidence, q quote) (string, error) {
	if subtle.ConstantTimeCompare(e.Opened, p.secret) != 1 {
		return "", errors.New("the attestation key is not in the TPM that the endorsement key is in")
	}
	s, err := v.cfg.Store.State(ctx, device) // may have changed since the challenge
	if err != nil && !errors.Is(err, ErrNone) {
		return "", err
	}
	if err := v.admits(t, s, p.hello); err != nil {
		return "", err
	}
	if len(s.EK) > 0 {
		if len(t.Makers) > 0 { // who vouch for the certificate that was shown now
			s.Certificate = p.hello.Certificate
		}
		return v.judge(ctx, device, t, s, p.hello.AK, e, q)
	}
	s = State{Version: version, EK: p.hello.EK, Certificate: p.hello.Certificate, AK: p.hello.AK, Since: v.cfg.Now(), Baseline: e.PCRs, Clock: q.clock, Revision: s.Revision}
	if err := v.cfg.Store.Save(ctx, device, s); err != nil {
		return "", err
	}
	return "its TPM was bound to it now" + t.note(), nil
}

// compare holds a quote of a known AK against what is remembered.
func (v *Verifier) compare(ctx context.Context, device string, t Trust, p pending, e Evidence, q quote) (string, error) {
	s, err := v.cfg.Store.State(ctx, device)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(s.AK, p.hello.AK) { // forgotten meanwhile, or bound anew
		return "", errors.New("the device's TPM was changed meanwhile")
	}
	_, ek, err := parseEK(s.EK)
	if err != nil {
		return "", err
	}
	if err := t.endorsed(ek, s.Certificate, v.cfg.Now()); err != nil { // the trust may have changed
		return "", err
	}
	return v.judge(ctx, device, t, s, s.AK, e, q)
}

// judge holds a quote of the device's TPM, by that AK of it, against what is remembered,
// and remembers what is new. The counts in a quote are the TPM's, whichever AK signs.
func (v *Verifier) judge(ctx context.Context, device string, t Trust, s State, ak []byte, e Evidence, q quote) (string, error) {
	if !q.clock.follows(s.Clock) {
		return "", errors.New("the TPM's clock went back: it was cleared, or an old state of it was brought back")
	}
	last := s
	s.AK, s.Clock = ak, q.clock
	changed := differing(s.Baseline, e.PCRs)
	if len(changed) > 0 {
		if s.Seen == nil || *s.Seen != e.PCRs {
			s.Seen, s.SeenAt = &e.PCRs, v.cfg.Now()
		}
	} else {
		s.Seen, s.SeenAt = nil, time.Time{}
	}
	if !bytes.Equal(s.AK, last.AK) || s.Clock.Resets != last.Clock.Resets || s.Clock.Restarts != last.Clock.Restarts || s.Clock.Millis-last.Clock.Millis >= clockStep || s.Seen != last.Seen {
		if err := v.cfg.Store.Save(ctx, device, s); err != nil {
			return "", err
		}
	}
	if len(changed) > 0 {
		return "", fmt.Errorf("PCR %s is not as it was when the TPM was bound: an update of firmware or boot loader changes it, and so does an attack; an administrator may accept the new values", strings.Join(changed, ", "))
	}
	return "the TPM bound on " + s.Since.UTC().Format(time.DateOnly) + " vouches for this report, PCRs unchanged" + t.note(), nil
}

// note tells what stands behind a TPM.
func (t Trust) note() string {
	if len(t.Makers) > 0 {
		return "; its maker is trusted"
	}
	return "; nobody vouches that it is a real TPM (trust on first use)"
}

// differing names the PCRs that differ.
func differing(a, b Registers) (names []string) {
	for i, n := range pcrs {
		if a[i] != b[i] {
			names = append(names, fmt.Sprint(n))
		}
	}
	return names
}

// Accept makes the PCRs that were last seen to differ the right ones. ErrNone where none are.
func (s *State) Accept() error {
	if s.Seen == nil {
		return fmt.Errorf("no other PCRs were seen: %w", ErrNone)
	}
	s.Baseline, s.Seen, s.SeenAt = *s.Seen, nil, time.Time{}
	return nil
}
