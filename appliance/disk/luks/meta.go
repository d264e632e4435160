package luks

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

const (
	cipherName = "aes-xts-plain64" // the one that is taken
	keySize    = 64                // bytes, of keys made here
	stripes    = 4000
	maxSlots   = 32
	maxArea    = 1 << 20
	leastTurns = 1000 // of PBKDF2, where what goes in is random and long
)

// meta is the JSON part (specification, section 3). Numbers of 64 bits are strings there.
type meta struct {
	Keyslots map[string]keyslot         `json:"keyslots"`
	Tokens   map[string]json.RawMessage `json:"tokens"`
	Segments map[string]segment         `json:"segments"`
	Digests  map[string]digest          `json:"digests"`
	Config   config                     `json:"config"`
}

type keyslot struct {
	Type     string `json:"type"`
	KeySize  int    `json:"key_size"`
	AF       split  `json:"af"`
	Area     area   `json:"area"`
	KDF      kdf    `json:"kdf"`
	Priority *int   `json:"priority,omitempty"`
}

type split struct {
	Type    string `json:"type"`
	Stripes int    `json:"stripes"`
	Hash    string `json:"hash"`
}

type area struct {
	Type       string `json:"type"`
	Offset     uint64 `json:"offset,string"`
	Size       uint64 `json:"size,string"`
	Encryption string `json:"encryption"`
	KeySize    int    `json:"key_size"`
}

type kdf struct {
	Type       string `json:"type"`
	Time       uint32 `json:"time,omitempty"`
	Memory     uint32 `json:"memory,omitempty"` // KiB
	CPUs       uint8  `json:"cpus,omitempty"`
	Hash       string `json:"hash,omitempty"`
	Iterations int    `json:"iterations,omitempty"`
	Salt       []byte `json:"salt"`
}

type segment struct {
	Type       string `json:"type"`
	Offset     uint64 `json:"offset,string"`
	Size       string `json:"size"`
	Tweak      uint64 `json:"iv_tweak,string"`
	Encryption string `json:"encryption"`
	Sector     int    `json:"sector_size"`
}

type digest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int      `json:"iterations"`
	Salt       []byte   `json:"salt"`
	Digest     []byte   `json:"digest"`
}

type config struct {
	JSONSize     uint64   `json:"json_size,string"`
	KeyslotsSize uint64   `json:"keyslots_size,string"`
	Flags        []string `json:"flags,omitempty"`
}

// newMeta is that of a header without keyslots.
func newMeta(key []byte, sector int) meta {
	d := digest{Type: "pbkdf2", Keyslots: []string{}, Segments: []string{"0"}, Hash: "sha256", Iterations: leastTurns, Salt: make([]byte, 32)}
	rand.Read(d.Salt)
	d.Digest = d.of(key)
	return meta{
		Keyslots: map[string]keyslot{}, Tokens: map[string]json.RawMessage{},
		Segments: map[string]segment{"0": {Type: "crypt", Offset: DataOffset, Size: "dynamic", Encryption: cipherName, Sector: sector}},
		Digests:  map[string]digest{"0": d},
		Config:   config{JSONSize: headerSize - binarySize, KeyslotsSize: DataOffset - Headers},
	}
}

func (m *meta) bytes() ([]byte, error) { return json.Marshal(m) }

// parse reads and checks everything; size is that of a copy of the header. A field that is
// not known here would be lost when the header is written again, so it is refused.
func (m *meta) parse(b []byte, size int64) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return err
	}
	if d.More() {
		return errors.New("something after the JSON")
	}
	if m.Tokens == nil {
		m.Tokens = map[string]json.RawMessage{}
	}
	if len(m.Tokens) > maxSlots || len(m.Keyslots) > maxSlots || len(m.Segments) != 1 || len(m.Digests) != 1 {
		return fmt.Errorf("%d tokens, %d keyslots, %d segments, %d digests", len(m.Tokens), len(m.Keyslots), len(m.Segments), len(m.Digests))
	}
	if m.Config.JSONSize != uint64(size)-binarySize || m.Config.KeyslotsSize > 128<<20 {
		return errors.New("sizes that contradict each other")
	}
	if err := m.checkSegment(size); err != nil {
		return err
	}
	dg, ok := m.Digests["0"]
	if !ok || dg.Type != "pbkdf2" || dg.Hash != "sha256" || dg.Iterations < leastTurns || dg.Iterations > maxTurns || len(dg.Digest) != sha256.Size || len(dg.Salt) < 16 || len(dg.Salt) > 64 || !slices.Equal(dg.Segments, []string{"0"}) {
		return errors.New("a digest that is not taken")
	}
	return m.checkSlots(size)
}

func (m *meta) checkSegment(size int64) error {
	s, ok := m.Segments["0"]
	if !ok || s.Type != "crypt" || s.Size != "dynamic" || s.Tweak != 0 || s.Encryption != cipherName || s.Sector != 512 && s.Sector != 4096 {
		return fmt.Errorf("a segment that is not taken: %q by %q", s.Type, s.Encryption)
	}
	if s.Offset < uint64(2*size) || s.Offset > 256<<20 || s.Offset%4096 != 0 || m.Config.KeyslotsSize > s.Offset-uint64(2*size) {
		return errors.New("a segment that begins among the keys")
	}
	return nil
}

func (m *meta) checkSlots(size int64) error {
	for id, s := range m.Keyslots {
		if n, err := strconv.Atoi(id); err != nil || n < 0 || n >= maxSlots || strconv.Itoa(n) != id {
			return fmt.Errorf("keyslot %q", id)
		}
		if s.Type != "luks2" || s.KeySize != keySize || s.AF.Type != "luks1" || s.AF.Stripes != stripes || s.AF.Hash != "sha256" {
			return fmt.Errorf("keyslot %s is not taken: %s", id, s.Type)
		}
		a := s.Area
		if a.Type != "raw" || a.Encryption != cipherName || a.KeySize != keySize && a.KeySize != 32 || a.Size < keySize*stripes || a.Size > maxArea || a.Offset%4096 != 0 || a.Size%4096 != 0 {
			return fmt.Errorf("the area of keyslot %s is not taken: %s", id, a.Encryption)
		}
		if a.Offset < uint64(2*size) || a.Offset > uint64(2*size)+m.Config.KeyslotsSize-min(a.Size, m.Config.KeyslotsSize) {
			return fmt.Errorf("the area of keyslot %s lies elsewhere", id)
		}
		for other, o := range m.Keyslots {
			if other != id && a.Offset < o.Area.Offset+o.Area.Size && o.Area.Offset < a.Offset+a.Size {
				return fmt.Errorf("keyslots %s and %s overlap", id, other)
			}
		}
		if err := s.KDF.check(); err != nil {
			return fmt.Errorf("keyslot %s: %w", id, err)
		}
	}
	return nil
}

// of is the digest of a volume key.
func (d digest) of(key []byte) []byte {
	sum, err := pbkdf2.Key(sha256.New, string(key), d.Salt, d.Iterations, sha256.Size)
	if err != nil {
		return nil // never: no policy forbids SHA-256
	}
	return sum
}

// is reports whether key is the volume key.
func (d digest) is(key []byte) bool { return subtle.ConstantTimeCompare(d.of(key), d.Digest) == 1 }
