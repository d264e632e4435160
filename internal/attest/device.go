package attest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// ErrNoTPM reports a device without a TPM 2.0 that this process may use.
var ErrNoTPM = errors.New("there is no TPM 2.0 here that can be used")

// Where a TPM's maker leaves certificates, and where systems keep the RSA EK (TCG EK
// Credential Profile, section 2.2.1.4; TCG TPM v2.0 Provisioning Guidance, section 7.8).
const (
	rsaCertificate = 0x01c00002
	eccCertificate = 0x01c0000a
	rsaPersistent  = 0x81010001
)

// Device speaks to this device's TPM. It is safe for concurrent use; one conversation at a
// time. A TPM that hangs costs the caller's time, and no more conversations begin until it
// has answered.
type Device struct {
	open func() (transport.TPMCloser, error)

	turn chan struct{} // holds a token while no conversation runs

	mu  sync.Mutex // guards what follows
	aks map[string][]byte
}

func newDevice(open func() (transport.TPMCloser, error)) *Device {
	d := &Device{open: open, turn: make(chan struct{}, 1), aks: map[string][]byte{}}
	d.turn <- struct{}{}
	return d
}

// talk runs one conversation with the TPM, until ctx ends.
func (d *Device) talk(ctx context.Context, do func(transport.TPM) error) error {
	select {
	case <-d.turn:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the TPM: %w", ctx.Err())
	}
	done := make(chan error, 1)
	go func() { // ends when the TPM has answered; the turn says that there is one at most
		defer func() { d.turn <- struct{}{} }()
		tpm, err := d.open()
		if err != nil {
			done <- fmt.Errorf("%w: %w", ErrNoTPM, err)
			return
		}
		err = do(tpm)
		done <- errors.Join(err, tpm.Close())
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the TPM did not answer: %w", ctx.Err())
	}
}

// Hello is the first message about a device: it names the AK, and with endorsement the EK.
func (d *Device) Hello(ctx context.Context, device string, endorsement bool) (json.RawMessage, error) {
	h := Hello{Version: version, AK: d.known(device)}
	if h.AK == nil || endorsement {
		err := d.talk(ctx, func(tpm transport.TPM) (err error) {
			if h.AK, err = publicOf(tpm, akFor(device)); err != nil {
				return err
			}
			if !endorsement {
				return nil
			}
			ek, err := endorsementKey(tpm)
			if err != nil {
				return err
			}
			h.EK, h.Certificate = ek.public, ek.certificate
			return ek.close(tpm)
		})
		if err != nil {
			return nil, fmt.Errorf("asking the TPM for its keys: %w", err)
		}
		d.remember(device, h.AK)
	}
	return json.Marshal(h)
}

// Knows says whether the TPM was asked about a device before, for a gateway that wanted it.
func (d *Device) Knows(device string) bool { return d.known(device) != nil }

// known is a device's AK; it is always the same, and making it takes a TPM a while.
func (d *Device) known(device string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.aks[device]
}

func (d *Device) remember(device string, ak []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aks[device] = ak
}

// Question is a challenge that a gateway gave.
type Question struct{ challenge Challenge }

// ErrOff reports that the gateway takes no attestation of this device.
var ErrOff = errors.New("the gateway takes no attestation")

// ErrEndorse reports that the gateway asks for a Hello with the endorsement.
var ErrEndorse = errors.New("the gateway asks for the endorsement key")

// ParseChallenge reads the gateway's answer to a Hello; ErrOff, ErrEndorse.
func ParseChallenge(text json.RawMessage) (Question, error) {
	var c Challenge
	if err := decode(text, &c); err != nil {
		return Question{}, fmt.Errorf("reading the gateway's challenge: %w", err)
	}
	switch {
	case c.Version != version:
		return Question{}, fmt.Errorf("reading the gateway's challenge: %w", errVersion)
	case c.Off != "":
		return Question{}, fmt.Errorf("%w: %s", ErrOff, c.Off)
	case len(c.Nonce) == 0:
		return Question{}, ErrEndorse
	case len(c.Nonce) != nonceSize:
		return Question{}, errors.New("reading the gateway's challenge: a nonce of another size")
	}
	return Question{c}, nil
}

// Answer makes the evidence that goes with a report of facts: channel is the binding of
// the TLS channel that the challenge came by.
func (d *Device) Answer(ctx context.Context, device string, q Question, channel []byte, facts map[string]string) (json.RawMessage, error) {
	e := Evidence{Version: version}
	err := d.talk(ctx, func(tpm transport.TPM) error {
		key, err := create(tpm, akFor(device))
		if err != nil {
			return err
		}
		err = e.fill(tpm, key, q.challenge, qualifying(q.challenge.Nonce, channel, device, facts))
		return errors.Join(err, key.close(tpm))
	})
	if err != nil {
		return nil, fmt.Errorf("asking the TPM for a quote: %w", err)
	}
	return json.Marshal(e)
}

func (e *Evidence) fill(tpm transport.TPM, key object, c Challenge, extra []byte) error {
	if len(c.Credential) > 0 {
		ek, err := endorsementKey(tpm)
		if err != nil {
			return err
		}
		e.Opened, err = activate(tpm, key, ek, c)
		if err = errors.Join(err, ek.close(tpm)); err != nil {
			return err
		}
	}
	return e.quote(tpm, key, extra)
}

// object is a key in the TPM.
type object struct {
	handle      tpm2.TPMHandle
	name        tpm2.TPM2BName
	public      []byte
	certificate []byte
	kept        bool // is persistent: not flushed
}

func (o object) close(tpm transport.TPM) error {
	if o.kept {
		return nil
	}
	if _, err := (tpm2.FlushContext{FlushHandle: o.handle}).Execute(tpm); err != nil {
		return fmt.Errorf("flushing a key: %w", err)
	}
	return nil
}

// create derives a key from the endorsement hierarchy's seed: the same each time.
func create(tpm transport.TPM, template tpm2.TPMTPublic) (object, error) {
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(tpm)
	if err != nil {
		return object{}, fmt.Errorf("deriving a key: %w", err)
	}
	return object{handle: r.ObjectHandle, name: r.Name, public: r.OutPublic.Bytes()}, nil
}

func publicOf(tpm transport.TPM, template tpm2.TPMTPublic) ([]byte, error) {
	o, err := create(tpm, template)
	if err != nil {
		return nil, err
	}
	return o.public, o.close(tpm)
}

// endorsementKey is the EK that the maker certified, else the one on P-256, which is quick
// to derive. An RSA key takes a TPM many seconds, so a persistent one is used where the
// system keeps it.
func endorsementKey(tpm transport.TPM) (object, error) {
	ecc, rsa := certificateAt(tpm, eccCertificate), certificateAt(tpm, rsaCertificate)
	if ecc != nil || rsa == nil {
		o, err := create(tpm, tpm2.ECCEKTemplate)
		o.certificate = ecc
		return o, err
	}
	if r, err := (tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(rsaPersistent)}).Execute(tpm); err == nil {
		o := object{handle: rsaPersistent, name: r.Name, public: r.OutPublic.Bytes(), certificate: rsa, kept: true}
		if _, _, err := parseEK(o.public); err == nil {
			return o, nil
		}
	}
	o, err := create(tpm, tpm2.RSAEKTemplate)
	o.certificate = rsa
	return o, err
}

// certificateAt reads a certificate from the TPM's memory; nil: there is none. What stands
// behind it is padding.
func certificateAt(tpm transport.TPM, index tpm2.TPMHandle) []byte {
	p, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
	if err != nil {
		return nil
	}
	public, err := p.NVPublic.Contents()
	if err != nil || public.DataSize > maxCertificate {
		return nil
	}
	const step = 512 // any TPM reads so much at once (MAX_NV_BUFFER_SIZE)
	var all []byte
	for offset := uint16(0); offset < public.DataSize; offset += step {
		r, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: p.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: p.NVName},
			Size:       min(step, public.DataSize-offset), Offset: offset,
		}.Execute(tpm)
		if err != nil {
			return nil
		}
		all = append(all, r.Data.Buffer...)
	}
	s := cryptobyte.String(all)
	var der cryptobyte.String
	if !s.ReadASN1Element(&der, asn1.SEQUENCE) {
		return nil
	}
	return slices.Clone(der)
}

// activate opens the gateway's credential: the TPM does so only for the AK's name, with the
// EK, whose use the endorsement hierarchy's (empty) password allows.
func activate(tpm transport.TPM, key, ek object, c Challenge) ([]byte, error) {
	allow := func(tpm transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, PolicySession: session, NonceTPM: nonce}.Execute(tpm)
		return err
	}
	r, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: key.handle, Name: key.name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: ek.handle, Name: ek.name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, allow)},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.Credential},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: c.Secret},
	}.Execute(tpm)
	if err != nil {
		return nil, fmt.Errorf("opening the gateway's credential: %w", err)
	}
	return r.CertInfo.Buffer, nil
}

// quote has the AK sign the PCRs. They are read apart, and may change in between; the
// gateway then refuses, and the next report has another try.
func (e *Evidence) quote(tpm transport.TPM, key object, extra []byte) error {
	selection := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs[:]...)}}}
	values, err := tpm2.PCRRead{PCRSelectionIn: selection}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("reading PCRs: %w", err)
	}
	if len(values.PCRValues.Digests) != len(e.PCRs) {
		return errors.New("the TPM has no SHA-256 bank of PCRs")
	}
	for i, v := range values.PCRValues.Digests {
		copy(e.PCRs[i][:], v.Buffer)
	}
	r, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: key.handle, Name: key.name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: extra},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      selection,
	}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("quoting: %w", err)
	}
	sig, err := r.Signature.Signature.ECDSA()
	if err != nil {
		return fmt.Errorf("quoting: %w", err)
	}
	e.Quote = r.Quoted.Bytes()
	e.Signature = append(padded(sig.SignatureR.Buffer), padded(sig.SignatureS.Buffer)...)
	return nil
}

// padded makes a number 32 bytes long.
func padded(b []byte) []byte {
	out := make([]byte, 32)
	b = b[max(0, len(b)-32):]
	copy(out[32-len(b):], b)
	return out
}
