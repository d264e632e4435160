// Package seal keeps secrets unreadable at rest: each record is sealed with AES-256-GCM
// under a data key of its own, and the data key under a key of the ring (envelope
// encryption). The ring itself lies on disk, sealed under the node's key.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
)

// A sealed value is
//
//	version 1 | algorithm 1 | ring key id 8 | wrapped data key 12+32+16 | sealed plaintext 12+n+16
//
// where both inner parts begin with their random nonce and end with their tag. The
// header and the context are authenticated with both, under different labels.
const (
	version1  = 1
	algorithm = 1 // AES-256-GCM, data key wrapped by AES-256-GCM

	keySize    = 32
	idSize     = 8
	gcmExtra   = 12 + 16 // nonce before, tag behind
	headerSize = 2 + idSize
	wrapSize   = keySize + gcmExtra

	// Overhead is how many bytes longer a sealed value is than its plaintext.
	Overhead = headerSize + wrapSize + gcmExtra
)

var (
	// ErrOpen reports a value that was altered, cut, or sealed for another context.
	ErrOpen = errors.New("sealed value does not open: altered, or sealed for another purpose")
	// ErrKey reports a value sealed under a key that the ring does not hold.
	ErrKey = errors.New("sealed under a key that is not in the ring")
	// ErrFormat reports bytes that are no sealed value of a known version.
	ErrFormat = errors.New("not a sealed value of a known version")
)

// ID names a key of the ring. It is random, and not secret.
type ID [idSize]byte

// String returns the id in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Seal seals plaintext for one purpose. The same context must be given to Open; it is
// authenticated, not stored: "secret/ca.device", or a reference with user and expiry.
func (r *Ring) Seal(context string, plaintext []byte) ([]byte, error) {
	id, ringKey := r.primary()
	dataKey := make([]byte, keySize)
	rand.Read(dataKey) // never fails: crypto/rand ends the program instead
	defer clear(dataKey)
	head := header(id)
	wrapped, err := encrypt(ringKey[:], dataKey, authenticated("wrap", head, context))
	if err != nil {
		return nil, fmt.Errorf("wrapping data key: %w", err)
	}
	body, err := encrypt(dataKey, plaintext, authenticated("data", head, context))
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	out := make([]byte, 0, len(plaintext)+Overhead)
	return append(append(append(out, head...), wrapped...), body...), nil
}

// Open returns the plaintext of a value sealed for the same context.
// Errors: ErrOpen, ErrKey, ErrFormat.
func (r *Ring) Open(context string, sealed []byte) ([]byte, error) {
	dataKey, err := r.dataKey(context, sealed)
	if err != nil {
		return nil, err
	}
	defer clear(dataKey)
	head := sealed[:headerSize]
	plaintext, err := decrypt(dataKey, sealed[headerSize+wrapSize:], authenticated("data", header(ID(head[2:])), context))
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// KeyOf returns the id of the ring key under which a value was sealed.
func KeyOf(sealed []byte) (ID, error) {
	if len(sealed) < Overhead || sealed[0] != version1 || sealed[1] != algorithm {
		return ID{}, ErrFormat
	}
	return ID(sealed[2:headerSize]), nil
}

// dataKey unwraps a value's data key.
func (r *Ring) dataKey(context string, sealed []byte) ([]byte, error) {
	id, err := KeyOf(sealed)
	if err != nil {
		return nil, err
	}
	ringKey, ok := r.key(id)
	if !ok {
		return nil, fmt.Errorf("%w (key %s)", ErrKey, id)
	}
	dataKey, err := decrypt(ringKey[:], sealed[headerSize:headerSize+wrapSize], authenticated("wrap", header(id), context))
	if err != nil {
		return nil, ErrOpen
	}
	return dataKey, nil
}

func header(id ID) []byte { return append([]byte{version1, algorithm}, id[:]...) }

// authenticated is the additional data of one part. Label and header have fixed
// lengths, so that no context can be read as another.
func authenticated(label string, head []byte, context string) []byte {
	return append(append([]byte("lazaret seal "+label+"\x00"), head...), context...)
}

func encrypt(key, plaintext, additional []byte) ([]byte, error) {
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, plaintext, additional), nil
}

func decrypt(key, sealed, additional []byte) ([]byte, error) {
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, nil, sealed, additional)
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
