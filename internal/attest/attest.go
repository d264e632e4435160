// Package attest lets a device's TPM 2.0 vouch for what it booted and for the report that
// goes with it, and lets the gateway judge that.
//
// The TPM holds an attestation key (AK) that signs nothing but what the TPM itself says. The
// gateway ties it to the TPM's endorsement key (EK) by a secret that only a TPM with both
// can open (credential activation, TPM 2.0 Library, part 1, section 24), and to a maker by
// the EK's certificate where makers are trusted. With each report the TPM signs a quote: its
// PCRs 0, 2, 4 and 7, and a digest of the gateway's nonce, the TLS channel, the device and
// the reported facts.
//
// Device code (Device) talks to a TPM. The gateway's code (Verifier and all that it uses)
// is pure, and parses what comes from outside itself, with bounds.
package attest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Bounds of what goes over the wire, in bytes.
const (
	maxMessage     = 8 << 10
	maxPublic      = 1 << 10
	maxCertificate = 4 << 10
	maxQuote       = 512
	nonceSize      = 32
	secretSize     = 32
)

// version is the version of all messages here.
const version = 1

// pcrs are the PCRs quoted, of the SHA-256 bank: firmware, option ROMs, boot loader and
// the state of secure boot (TCG PC Client Platform Firmware Profile, section 3.3.4).
var pcrs = [4]uint{0, 2, 4, 7}

// Registers are the values of the quoted PCRs, in order.
type Registers [len(pcrs)][sha256.Size]byte

// Hello is a device's wish to attest. The first names the AK alone; the gateway then asks
// for the endorsement, unless it knows the AK.
type Hello struct {
	Version     int    `json:"v"`
	AK          []byte `json:"ak,omitempty"`          // TPMT_PUBLIC; none: a Knock
	EK          []byte `json:"ek,omitempty"`          // TPMT_PUBLIC
	Certificate []byte `json:"certificate,omitempty"` // of the EK, DER; none: the TPM holds none
}

// Knock is a Hello that names no key: it asks whether the gateway takes attestation, before
// a TPM is asked for anything.
var Knock = json.RawMessage(`{"v":1}`)

// Challenge answers a Hello. Its zero value asks for the endorsement.
type Challenge struct {
	Version int    `json:"v"`
	Off     string `json:"off,omitempty"`   // why the gateway takes no attestation of this device
	Nonce   []byte `json:"nonce,omitempty"` // good for one quote
	// Credential and Secret are for TPM2_ActivateCredential, where the AK is new.
	Credential []byte `json:"credential,omitempty"`
	Secret     []byte `json:"secret,omitempty"`
}

// Evidence is what a device sends with its report.
type Evidence struct {
	Version   int       `json:"v"`
	Quote     []byte    `json:"quote"`               // TPMS_ATTEST
	Signature []byte    `json:"signature"`           // of the quote's SHA-256 by the AK: r and s, 32 bytes each
	PCRs      Registers `json:"pcrs"`                // that the quote's digest is of
	Opened    []byte    `json:"activated,omitempty"` // the credential, where one was given
}

// Hex names registers by their number, in hexadecimal.
func (r Registers) Hex() map[string]string {
	out := map[string]string{}
	for i, n := range pcrs {
		out[strconv.FormatUint(uint64(n), 10)] = hex.EncodeToString(r[i][:])
	}
	return out
}

// MarshalJSON writes registers in base64.
func (r Registers) MarshalJSON() ([]byte, error) {
	list := make([][]byte, len(r))
	for i := range r {
		list[i] = r[i][:]
	}
	return json.Marshal(list)
}

// UnmarshalJSON reads registers, which must be all there.
func (r *Registers) UnmarshalJSON(text []byte) error {
	var list [][]byte
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	if len(list) != len(r) {
		return fmt.Errorf("%d PCRs, want %d", len(list), len(r))
	}
	for i, v := range list {
		if len(v) != len(r[i]) {
			return fmt.Errorf("a PCR of %d bytes", len(v))
		}
		copy(r[i][:], v)
	}
	return nil
}

// decode reads one message of bounded size.
func decode(text []byte, out any) error {
	if len(text) > maxMessage {
		return fmt.Errorf("a message of %d bytes", len(text))
	}
	return json.Unmarshal(text, out)
}

var errVersion = errors.New("the message is of another version")

// qualifying is what a quote must be of beside PCRs: SHA-256 over domain, nonce, channel,
// device and facts, each with its length.
func qualifying(nonce, channel []byte, device string, facts map[string]string) []byte {
	h := sha256.New()
	put := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	put([]byte("lazaret quote 1"))
	put(nonce)
	put(channel)
	put([]byte(device))
	sum := factsDigest(facts)
	put(sum[:])
	return h.Sum(nil)
}

// factsDigest is a digest of facts that no other facts have.
func factsDigest(facts map[string]string) [sha256.Size]byte {
	var b []byte
	for _, k := range slices.Sorted(maps.Keys(facts)) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(k)))
		b = append(b, k...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(facts[k])))
		b = append(b, facts[k]...)
	}
	return sha256.Sum256(b)
}
