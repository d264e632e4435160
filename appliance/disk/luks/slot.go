package luks

import (
	"crypto/aes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/xts"

	"lazaret/appliance/disk/block"
)

// Bounds of what a header may ask for: cryptsetup's own default memory, and some minutes.
const (
	maxMemory = 1 << 20 // KiB
	maxTime   = 64
	maxTurns  = 50_000_000
)

// Cost is what a guess of a passphrase costs.
type Cost string

// The costs there are.
const (
	// Typed is Argon2id with 64 MiB, three passes and four lanes (RFC 9106, section 4, the
	// second choice): what a machine of 512 MB can spare.
	Typed Cost = "typed"
	// Random is PBKDF2 with the least turns: for what is random and has 128 bits or more.
	Random Cost = "random"
	// Cheap is Argon2id that costs next to nothing, for tests.
	Cheap Cost = "cheap"
)

func (c Cost) kdf() (kdf, error) {
	k := kdf{Salt: make([]byte, 32)}
	rand.Read(k.Salt)
	switch c {
	case Typed:
		k.Type, k.Time, k.Memory, k.CPUs = "argon2id", 3, 64<<10, 4
	case Random:
		k.Type, k.Hash, k.Iterations = "pbkdf2", "sha256", leastTurns
	case Cheap:
		k.Type, k.Time, k.Memory, k.CPUs = "argon2id", 4, 32, 1
	default:
		return kdf{}, fmt.Errorf("no such cost: %q", c)
	}
	return k, nil
}

func (k kdf) check() error {
	switch {
	case len(k.Salt) < 16 || len(k.Salt) > 64:
		return errors.New("a salt of another size")
	case k.Type == "argon2id" && k.Time >= 1 && k.Time <= maxTime && k.Memory >= 8*uint32(k.CPUs) && k.Memory <= maxMemory && k.CPUs >= 1 && k.CPUs <= 16:
		return nil
	case k.Type == "pbkdf2" && k.Hash == "sha256" && k.Iterations >= leastTurns && k.Iterations <= maxTurns:
		return nil
	}
	return fmt.Errorf("a key derivation that is not taken: %s", k.Type)
}

// key makes the key of a keyslot's area from a passphrase.
func (k kdf) key(passphrase []byte, size int) ([]byte, error) {
	if k.Type == "argon2id" {
		return argon2.IDKey(passphrase, k.Salt, k.Time, k.Memory, k.CPUs, uint32(size)), nil
	}
	return pbkdf2.Key(sha256.New, string(passphrase), k.Salt, k.Iterations, size)
}

// crypt encrypts or decrypts whole sectors of an area in place.
func crypt(key, b []byte, encrypt bool) error {
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return err
	}
	for n := 0; n*512 < len(b); n++ {
		if s := b[n*512 : n*512+512]; encrypt {
			c.Encrypt(s, s, uint64(n))
		} else {
			c.Decrypt(s, s, uint64(n))
		}
	}
	return nil
}

// diffuse mixes a stripe (LUKS1 On-Disk Format, section 2.4, H1).
func diffuse(b []byte) {
	for i := 0; i*sha256.Size < len(b); i++ {
		part := b[i*sha256.Size : min((i+1)*sha256.Size, len(b))]
		sum := sha256.New()
		_ = binary.Write(sum, binary.BigEndian, uint32(i))
		sum.Write(part)
		copy(part, sum.Sum(nil))
	}
}

// spread makes of a key so many stripes that it is lost with any of them.
func spread(key []byte) []byte {
	out := make([]byte, len(key)*stripes)
	last := out[len(key)*(stripes-1):]
	rand.Read(out[:len(key)*(stripes-1)])
	for i := range stripes - 1 {
		subtle.XORBytes(last, last, out[i*len(key):(i+1)*len(key)])
		diffuse(last)
	}
	subtle.XORBytes(last, last, key)
	return out
}

// gather is the key that was spread.
func gather(b []byte, size int) []byte {
	key := make([]byte, size)
	for i := range stripes - 1 {
		subtle.XORBytes(key, key, b[i*size:(i+1)*size])
		diffuse(key)
	}
	subtle.XORBytes(key, key, b[size*(stripes-1):size*stripes])
	return key
}

// put writes the volume key into the area of a keyslot.
func (s keyslot) put(d block.Device, passphrase, key []byte) error {
	area, err := s.KDF.key(passphrase, s.Area.KeySize)
	if err != nil {
		return err
	}
	b := make([]byte, s.Area.Size)
	rand.Read(b[keySize*stripes:])
	copy(b, spread(key))
	if err := crypt(area, b[:keySize*stripes], true); err != nil {
		return err
	}
	if _, err := d.WriteAt(b, int64(s.Area.Offset)); err != nil {
		return err
	}
	return d.Sync()
}

// get is what a passphrase finds in the area: the volume key, if it is the right one.
func (s keyslot) get(d block.Device, passphrase []byte) ([]byte, error) {
	area, err := s.KDF.key(passphrase, s.Area.KeySize)
	if err != nil {
		return nil, err
	}
	b, err := block.Read(d, int64(s.Area.Offset), keySize*stripes)
	if err != nil {
		return nil, err
	}
	if err := crypt(area, b, false); err != nil {
		return nil, err
	}
	return gather(b, keySize), nil
}
