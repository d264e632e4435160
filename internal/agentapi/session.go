package agentapi

import (
	"crypto"
	"errors"
	"fmt"
)

// Paths of management sessions (D2). Hello and Exchange of one session travel over one TLS
// connection, both ways: the signatures are bound to it.
const (
	HelloPath    = "/agent/v1/manage/hello"
	ExchangePath = "/agent/v1/manage/exchange"
)

const (
	// BindingLabel is what both ends take from TLS to name their connection: 32 bytes, no
	// context (RFC 9266, section 4.2).
	BindingLabel  = "EXPORTER-Channel-Binding"
	BindingLength = 32

	nonceLength   = 32
	sessionLength = 16

	// MaxSequence bounds the number of a session.
	MaxSequence = 1 << 53
	// MaxSigned bounds a signed message, and MaxTogether how many come in one.
	MaxSigned   = 8 << 10
	MaxTogether = 32
)

// ErrMalformed reports a message that is not of its form.
var ErrMalformed = errors.New("not of the form that it should have")

// Hello begins a session: the device's nonce, and the session's number, which has grown
// since the last one.
type Hello struct {
	Version  int    `json:"v"` // 1
	Device   string `json:"device"`
	Sequence uint64 `json:"sequence"`
	Nonce    []byte `json:"nonce"`
}

// Check says whether the message is of its form.
func (h Hello) Check() error {
	if h.Version != 1 || h.Device == "" || len(h.Device) > maxDevice || len(h.Nonce) != nonceLength || h.Sequence == 0 || h.Sequence > MaxSequence {
		return fmt.Errorf("hello: %w", ErrMalformed)
	}
	return nil
}

// Welcome answers a Hello: the gateway's nonce, and its signature over both, the device,
// the session's number and the TLS connection. With Resync there is no session: the
// device's number was one that the gateway has seen, Sequence is the highest it has seen,
// and the device begins anew above it, with new nonces.
type Welcome struct {
	Version   int      `json:"v"`
	Session   []byte   `json:"session"`
	Nonce     []byte   `json:"nonce"`
	Sequence  uint64   `json:"sequence"`
	Resync    bool     `json:"resync,omitempty"`
	Executed  uint64   `json:"executed"` // the highest command that the gateway knows the device began
	Chain     [][]byte `json:"chain"`    // of the management signer, DER, leaf first
	Signature []byte   `json:"signature"`
}

func (w Welcome) check() error {
	if w.Version != 1 || len(w.Session) != sessionLength || len(w.Nonce) != nonceLength || w.Sequence > MaxSequence || w.Executed > MaxSequence {
		return fmt.Errorf("welcome: %w", ErrMalformed)
	}
	return nil
}

// transcript is what both sign of a session.
func transcript(binding []byte, h Hello, w Welcome) [][]byte {
	return [][]byte{binding, []byte(h.Device), number(h.Sequence), h.Nonce, w.Nonce, w.Session, number(w.Sequence), number(w.Executed)}
}

func (w Welcome) domain() string {
	if w.Resync {
		return domainResync
	}
	return domainWelcome
}

// Sign signs the welcome as the gateway.
func (w *Welcome) Sign(key crypto.Signer, binding []byte, h Hello) (err error) {
	w.Signature, err = sign(key, w.domain(), transcript(binding, h, *w)...)
	return err
}

// Verify says whether the gateway signed this answer to h, on this connection.
func (w Welcome) Verify(signer Signer, binding []byte, h Hello) error {
	if err := w.check(); err != nil {
		return err
	}
	if len(binding) != BindingLength || !w.Resync && w.Sequence != h.Sequence {
		return fmt.Errorf("welcome: %w", ErrMalformed)
	}
	if err := verify(signer.Key, w.Signature, w.domain(), transcript(binding, h, w)...); err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	return nil
}

// Prove is the device's signature over the same, and over the highest command that it
// began.
func (w Welcome) Prove(key crypto.Signer, binding []byte, h Hello, executed uint64) ([]byte, error) {
	return sign(key, domainProof, append(transcript(binding, h, w), number(executed))...)
}

// CheckProof says whether the device signed this session, on this connection.
func (w Welcome) CheckProof(pub crypto.PublicKey, proof, binding []byte, h Hello, executed uint64) error {
	if len(binding) != BindingLength {
		return fmt.Errorf("proof: %w", ErrMalformed)
	}
	if err := verify(pub, proof, domainProof, append(transcript(binding, h, w), number(executed))...); err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	return nil
}

// Exchange is one message of a session, from the device: what became of commands. The
// first bears the proof.
type Exchange struct {
	Session  []byte   `json:"session"`
	Number   uint64   `json:"number"`   // 1, then 2, and so on
	Executed uint64   `json:"executed"` // in the first: the highest command that the device began
	Proof    []byte   `json:"proof,omitempty"`
	Results  []Signed `json:"results,omitempty"`
}

// Check says whether the message is of its form.
func (x Exchange) Check() error {
	if len(x.Session) != sessionLength || x.Number == 0 || x.Executed > MaxSequence || len(x.Proof) > 256 || len(x.Results) > MaxTogether {
		return fmt.Errorf("exchange: %w", ErrMalformed)
	}
	return checkSigned(x.Results)
}

// Orders answers an Exchange: what the gateway has taken in, and what there is to do.
type Orders struct {
	Number   uint64   `json:"number"`
	Taken    []string `json:"taken,omitempty"` // commands whose results are kept, and need not be told again
	Commands []Signed `json:"commands,omitempty"`
}

// Check says whether the answer is of its form.
func (o Orders) Check(number uint64) error {
	if o.Number != number || len(o.Taken) > MaxTogether || len(o.Commands) > MaxTogether {
		return fmt.Errorf("orders: %w", ErrMalformed)
	}
	return checkSigned(o.Commands)
}

// Signed is a message that bears its own signature.
type Signed struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

func checkSigned(all []Signed) error {
	for _, s := range all {
		if len(s.Payload) > MaxSigned || len(s.Signature) > 256 {
			return fmt.Errorf("signed message: %w", ErrMalformed)
		}
	}
	return nil
}
