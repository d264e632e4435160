// Package tpm seals a secret to this machine's TPM 2.0, and to what its firmware measured
// when it booted. Whoever listens on the TPM's bus learns nothing: what is secret travels
// in sessions salted with the storage root key, which a stand-in between TPM and processor
// does not have.
package tpm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// What Unseal and Open may end with; test with errors.Is.
var (
	ErrNone    = errors.New("there is no TPM 2.0 that can be used")
	ErrOther   = errors.New("the key was sealed by another TPM, or this one was cleared")
	ErrChanged = errors.New("what the firmware measured when the machine booted has changed")
	ErrPIN     = errors.New("the PIN is wrong")
	ErrLockout = errors.New("the TPM takes no more PINs for now")
)

// TPM is a conversation with a TPM.
type TPM struct{ t transport.TPMCloser }

// Open opens a TPM: a device, or the unix socket of a software TPM; empty: the kernel's
// resource manager. ErrNone.
func Open(path string) (*TPM, error) {
	if path == "" {
		path = "/dev/tpmrm0"
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	open := linuxtpm.Open
	if info.Mode()&fs.ModeSocket != 0 {
		open = linuxudstpm.Open
	}
	t, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	return &TPM{t}, nil
}

// Close ends the conversation.
func (t *TPM) Close() error { return t.t.Close() }

// Blob is a sealed secret: it is no secret itself.
type Blob struct {
	PCRs    []uint `json:"pcrs"`
	PIN     bool   `json:"pin,omitempty"`
	PINOnly bool   `json:"pin_only,omitempty"` // the PIN is known to look like nothing else that is typed; whoever seals says so
	Root    []byte `json:"root"`               // public area of the storage root key
	Public  []byte `json:"public"`
	Private []byte `json:"private"`
}

// check bounds what comes from a disk.
func (b Blob) check() error {
	if len(b.Root) > 1024 || len(b.Public) > 1024 || len(b.Private) > 2048 || len(b.PCRs) > 24 {
		return errors.New("a sealed key of another kind")
	}
	for _, n := range b.PCRs {
		if n > 23 {
			return fmt.Errorf("PCR %d", n)
		}
	}
	return nil
}

// root is the storage root key: made from the TPM's seed, so that it is the same each time.
type root struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
	bytes  []byte
}

// makeRoot makes it; with known, it must be that one.
func (t *TPM) makeRoot(known []byte) (root, error) {
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t.t)
	if err != nil {
		return root{}, fmt.Errorf("making storage root key: %w", err)
	}
	r := root{handle: made.ObjectHandle, name: made.Name, bytes: made.OutPublic.Bytes()}
	if known != nil && !bytes.Equal(known, r.bytes) {
		t.flush(r.handle)
		return root{}, ErrOther
	}
	public, err := made.OutPublic.Contents()
	if err != nil {
		t.flush(r.handle)
		return root{}, fmt.Errorf("reading storage root key: %w", err)
	}
	r.public = *public
	return r, nil
}

func (t *TPM) flush(h tpm2.TPMHandle) { _, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t.t) } // the resource manager does it else

func selection(pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}}
}

// auth is what the TPM takes for a PIN, without a zero in it: the TPM drops those at its end,
// and go-tpm 0.9.8 takes it to end before the first, so that its proofs would be wrong.
func auth(pin []byte) []byte {
	if len(pin) == 0 {
		return nil
	}
	sum := sha256.Sum256(pin)
	for i, c := range sum {
		if c == 0 {
			sum[i] = 1
		}
	}
	sum[31] |= 1
	return sum[:]
}

// Measured reports whether the firmware measured anything into all of the PCRs.
func (t *TPM) Measured(pcrs []uint) (bool, error) {
	for _, n := range pcrs {
		got, err := tpm2.PCRRead{PCRSelectionIn: selection([]uint{n})}.Execute(t.t)
		if err != nil {
			return false, fmt.Errorf("reading PCR %d: %w", n, err)
		}
		if len(got.PCRValues.Digests) != 1 {
			return false, fmt.Errorf("%w: it keeps no SHA-256 measurements", ErrNone)
		}
		if bytes.Equal(got.PCRValues.Digests[0].Buffer, make([]byte, 32)) {
			return false, nil
		}
	}
	return true, nil
}

// policy runs the policy in a session.
func policy(pcrs []uint, pin bool) tpm2.PolicyCallback {
	return func(t transport.TPM, handle tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		if _, err := (tpm2.PolicyPCR{PolicySession: handle, Pcrs: selection(pcrs)}).Execute(t); err != nil {
			return err
		}
		if !pin {
			return nil
		}
		_, err := tpm2.PolicyAuthValue{PolicySession: handle}.Execute(t)
		return err
	}
}

// Seal seals a secret to the PCRs as they are now, and to a PIN if there is one. Wrong PINs
// count towards the TPM's lockout.
func (t *TPM) Seal(secret []byte, pcrs []uint, pin []byte) (Blob, error) {
	if _, err := t.Measured(pcrs); err != nil {
		return Blob{}, err
	}
	r, err := t.makeRoot(nil)
	if err != nil {
		return Blob{}, err
	}
	defer t.flush(r.handle)
	digest, err := t.digest(pcrs, len(pin) > 0)
	if err != nil {
		return Blob{}, fmt.Errorf("computing policy: %w", err)
	}
	made, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: r.handle, Name: r.name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(r.handle, r.public), tpm2.AESEncryption(128, tpm2.EncryptIn))},
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: auth(pin)}, Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret})}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: len(pin) == 0}, // by policy alone
			AuthPolicy:       digest,
		}),
	}.Execute(t.t)
	if err != nil {
		return Blob{}, fmt.Errorf("sealing: %w", err)
	}
	return Blob{PCRs: pcrs, PIN: len(pin) > 0, Root: r.bytes, Public: made.OutPublic.Bytes(), Private: made.OutPrivate.Buffer}, nil
}

// digest is the policy's, as the TPM computes it.
func (t *TPM) digest(pcrs []uint, pin bool) (tpm2.TPM2BDigest, error) {
	s, end, err := tpm2.PolicySession(t.t, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
	if err != nil {
		return tpm2.TPM2BDigest{}, err
	}
	defer func() { _ = end() }()
	if err := policy(pcrs, pin)(t.t, s.Handle(), s.NonceTPM()); err != nil {
		return tpm2.TPM2BDigest{}, err
	}
	got, err := tpm2.PolicyGetDigest{PolicySession: s.Handle()}.Execute(t.t)
	if err != nil {
		return tpm2.TPM2BDigest{}, err
	}
	return got.PolicyDigest, nil
}

// Sealed says whether the secret was sealed by this TPM, as far as can be told without its
// PIN: nil, or ErrOther.
func (t *TPM) Sealed(b Blob) error {
	if err := b.check(); err != nil {
		return err
	}
	r, err := t.makeRoot(b.Root)
	if err != nil {
		return err
	}
	t.flush(r.handle)
	return nil
}

// Unseal returns the secret. ErrOther, ErrChanged, ErrPIN, ErrLockout.
func (t *TPM) Unseal(b Blob, pin []byte) ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	r, err := t.makeRoot(b.Root)
	if err != nil {
		return nil, err
	}
	defer t.flush(r.handle)
	loaded, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: r.handle, Name: r.name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(r.handle, r.public))},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: b.Private}, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](b.Public),
	}.Execute(t.t)
	if err != nil {
		return nil, fmt.Errorf("loading sealed key: %w", meaning(err))
	}
	defer t.flush(loaded.ObjectHandle)
	got, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, policy(b.PCRs, b.PIN),
		tpm2.Auth(auth(pin)), tpm2.Salted(r.handle, r.public), tpm2.AESEncryption(128, tpm2.EncryptOut))}}.Execute(t.t)
	if err != nil {
		return nil, fmt.Errorf("unsealing key: %w", meaning(err))
	}
	return got.OutData.Buffer, nil
}

// meaning says what a TPM's refusal means.
func meaning(err error) error {
	for code, is := range map[tpm2.TPMRC]error{
		tpm2.TPMRCIntegrity: ErrOther, tpm2.TPMRCPolicyFail: ErrChanged, tpm2.TPMRCPCRChanged: ErrChanged, tpm2.TPMRCValue: ErrChanged,
		tpm2.TPMRCAuthFail: ErrPIN, tpm2.TPMRCBadAuth: ErrPIN, tpm2.TPMRCLockout: ErrLockout,
	} {
		if errors.Is(err, code) {
			return fmt.Errorf("%w: %w", is, err)
		}
	}
	return err
}
