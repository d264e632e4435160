package agentapi

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const (
	// MaxWake bounds a wake-up's text, in bytes.
	MaxWake = 200
	// WakeWindow is how far a wake-up's time may be from the device's clock.
	WakeWindow = 5 * time.Minute

	maxDevice   = 64
	wakeVersion = 1
	wakeHead    = 1 + 4 + 8 + 8 // version, signer, time, counter
	wakeTail    = 64            // signature
)

// Wakeup tells a device to open a management session, and nothing else (D3, O3). It may
// travel by any way, read by anybody; its text is base64url (RFC 4648, section 5) of
//
//	version (1 byte), signer (4), time (8, Unix seconds), counter (8), device, signature (64)
//
// numbers big-endian, the signature of ECDSA on P-256 as R and S of 32 bytes each, or of
// Ed25519.
type Wakeup struct {
	Device  string
	Signer  [4]byte // SignerID
	Time    time.Time
	Counter uint64

	signature []byte
}

func (w Wakeup) head() []byte {
	b := append([]byte{wakeVersion}, w.Signer[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(w.Time.Unix()))
	b = binary.BigEndian.AppendUint64(b, w.Counter)
	return append(b, w.Device...)
}

// Sign returns the wake-up's text.
func (w Wakeup) Sign(key crypto.Signer) (string, error) {
	if w.Device == "" || len(w.Device) > maxDevice {
		return "", fmt.Errorf("making a wake-up: %w", ErrMalformed)
	}
	sig, err := sign(key, domainWake, w.head())
	if err == nil {
		sig, err = flat(key.Public(), sig)
	}
	if err != nil {
		return "", fmt.Errorf("making a wake-up: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(append(w.head(), sig...)), nil
}

// ParseWakeup reads a wake-up's text. Nothing in it is to be believed before Verify.
func ParseWakeup(text string) (Wakeup, error) {
	if len(text) > MaxWake {
		return Wakeup{}, fmt.Errorf("reading a wake-up: %w", ErrMalformed)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) <= wakeHead+wakeTail || len(b) > wakeHead+maxDevice+wakeTail || b[0] != wakeVersion {
		return Wakeup{}, fmt.Errorf("reading a wake-up: %w", ErrMalformed)
	}
	seconds := binary.BigEndian.Uint64(b[5:])
	if seconds > 1<<40 {
		return Wakeup{}, fmt.Errorf("reading a wake-up: %w", ErrMalformed)
	}
	w := Wakeup{Time: time.Unix(int64(seconds), 0).UTC(), Counter: binary.BigEndian.Uint64(b[13:])}
	copy(w.Signer[:], b[1:5])
	end := len(b) - wakeTail
	w.Device, w.signature = string(b[wakeHead:end]), b[end:]
	return w, nil
}

var (
	errWakeOther = errors.New("the wake-up is for another device, or of a signer that is not known")
	errWakeTime  = errors.New("the wake-up's time is not now")
	errWakeOld   = errors.New("the wake-up was seen before")
)

// Verify says whether the signer made this wake-up for this device, now, and after the one
// whose counter was accepted last.
func (w Wakeup) Verify(signer Signer, device string, last uint64, now time.Time) error {
	if w.Device != device || w.Signer != signer.ID {
		return errWakeOther
	}
	sig, err := unflat(signer.Key, w.signature)
	if err == nil {
		err = verify(signer.Key, sig, domainWake, w.head())
	}
	if err != nil {
		return fmt.Errorf("wake-up: %w", err)
	}
	if off := now.Sub(w.Time); off > WakeWindow || off < -WakeWindow {
		return errWakeTime
	}
	if w.Counter <= last {
		return errWakeOld
	}
	return nil
}

// flat is a signature of 64 bytes.
func flat(pub crypto.PublicKey, sig []byte) ([]byte, error) {
	k, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return sig, nil
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(sig, &rs); err != nil || len(rest) > 0 || k.Curve != elliptic.P256() {
		return nil, errors.New("a signature that is not of P-256")
	}
	out := make([]byte, wakeTail)
	rs.R.FillBytes(out[:32])
	rs.S.FillBytes(out[32:])
	return out, nil
}

// unflat undoes flat.
func unflat(pub crypto.PublicKey, sig []byte) ([]byte, error) {
	if _, ok := pub.(*ecdsa.PublicKey); !ok {
		return sig, nil
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])})
}
