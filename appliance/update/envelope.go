package update

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"lazaret/appliance"
)

// maxSigned bounds what is signed, in bytes.
const maxSigned = 64 << 10

// domain is a kind of signed thing. One kind's signature is worth nothing for another.
type domain struct{ magic, words string }

var (
	bundles  = domain{"lazaret-update1\n", "lazaret update manifest 1"}
	channels = domain{"lazaret-chan-1\n\n", "lazaret update channel 1"}
)

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{appliance.ErrRefused}, args...)...)
}

// message is what is signed.
func (d domain) message(head []byte, ids []KeyID) []byte {
	h := sha256.New()
	h.Write(head)
	for _, id := range ids {
		h.Write(id[:])
	}
	return h.Sum(append([]byte(d.words), 0))
}

// seal returns text with its signatures.
func (d domain) seal(text []byte, keys []ed25519.PrivateKey) ([]byte, error) {
	if len(text) == 0 || len(text) > maxSigned || len(keys) == 0 || len(keys) > mostKeys {
		return nil, fmt.Errorf("signing: %d bytes by %d keys are out of bounds", len(text), len(keys))
	}
	out := binary.BigEndian.AppendUint32([]byte(d.magic), uint32(len(text)))
	out = append(append(out, text...), byte(len(keys)))
	ids := make([]KeyID, len(keys))
	for i, k := range keys {
		ids[i] = IDOf(k.Public().(ed25519.PublicKey))
	}
	said := d.message(out, ids)
	for i, k := range keys {
		out = append(append(out, ids[i][:]...), ed25519.Sign(k, said)...)
	}
	return out, nil
}

// open reads what seal wrote, and returns the text once a known key vouches for it. Errors
// wrap appliance.ErrRefused where what is read is wrong, and not where reading failed.
func (d domain) open(r io.Reader, keys Keys) ([]byte, error) {
	var head bytes.Buffer
	r = io.TeeReader(r, &head)
	start := make([]byte, len(d.magic)+4)
	if err := fill(r, start); err != nil {
		return nil, err
	}
	if string(start[:len(d.magic)]) != d.magic {
		return nil, refused("this is no file of the kind that is wanted")
	}
	n := binary.BigEndian.Uint32(start[len(d.magic):])
	if n == 0 || n > maxSigned {
		return nil, refused("its manifest is out of bounds (%d bytes)", n)
	}
	text := make([]byte, int(n)+1) // and the number of signatures
	if err := fill(r, text); err != nil {
		return nil, err
	}
	count := int(text[n])
	if count == 0 || count > mostKeys {
		return nil, refused("it has %d signatures, which is not 1 to %d", count, mostKeys)
	}
	said := bytes.Clone(head.Bytes())
	ids, signatures := make([]KeyID, count), make([][ed25519.SignatureSize]byte, count)
	for i := range count {
		if err := errors.Join(fill(r, ids[i][:]), fill(r, signatures[i][:])); err != nil {
			return nil, err
		}
	}
	known := 0
	for i, id := range ids {
		key, ok := keys[id]
		if !ok {
			continue
		}
		if !ed25519.Verify(key, d.message(said, ids), signatures[i][:]) {
			return nil, refused("its signature is wrong: it was changed, or is not ours")
		}
		known++
	}
	if known == 0 {
		return nil, refused("no key that this machine knows has signed it")
	}
	return text[:n], nil
}

// fill reads the whole of b.
func fill(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refused("it ends in the middle")
	}
	if err != nil {
		return fmt.Errorf("reading it: %w", err)
	}
	return nil
}

// decode parses signed JSON: one value, no unknown names.
func decode(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return refused("its manifest is not understood: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refused("something follows its manifest")
	}
	return nil
}
