package luks

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"lazaret/appliance/disk/block"
)

// tokenType is the type of the tokens that say whose a keyslot is.
const tokenType = "lazaret"

// Slot is a keyslot, and whose it is.
type Slot struct {
	ID   int
	Kind string          // what made it: from its token; empty: others
	Data json.RawMessage // from its token
}

type token struct {
	Type     string          `json:"type"`
	Keyslots []string        `json:"keyslots"`
	Kind     string          `json:"kind"`
	Data     json.RawMessage `json:"data,omitempty"`
}

// NewSlot is a keyslot to be made.
type NewSlot struct {
	Secret []byte // what opens it
	Cost   Cost
	Kind   string
	Data   json.RawMessage
}

// Slots lists the keyslots by their ids.
func (h *Header) Slots() []Slot {
	kinds := map[string]token{}
	for _, raw := range h.meta.Tokens {
		var t token
		if json.Unmarshal(raw, &t) == nil && t.Type == tokenType && len(t.Keyslots) == 1 {
			kinds[t.Keyslots[0]] = t
		}
	}
	var all []Slot
	for id := range h.meta.Keyslots {
		n, _ := strconv.Atoi(id)
		all = append(all, Slot{ID: n, Kind: kinds[id].Kind, Data: kinds[id].Data})
	}
	slices.SortFunc(all, func(a, b Slot) int { return a.ID - b.ID })
	return all
}

// Unlock returns the volume key that a passphrase opens in one keyslot. ErrPassphrase.
func (h *Header) Unlock(d block.Device, slot int, passphrase []byte) ([]byte, error) {
	s, ok := h.meta.Keyslots[strconv.Itoa(slot)]
	if !ok || !slices.Contains(h.meta.Digests["0"].Keyslots, strconv.Itoa(slot)) {
		return nil, fmt.Errorf("keyslot %d: %w", slot, ErrPassphrase)
	}
	key, err := s.get(d, passphrase)
	if err != nil {
		return nil, fmt.Errorf("opening keyslot %d: %w", slot, err)
	}
	if !h.meta.Digests["0"].is(key) {
		return nil, ErrPassphrase
	}
	return key, nil
}

// Is reports whether key is the volume key.
func (h *Header) Is(key []byte) bool { return h.meta.Digests["0"].is(key) }

// Prepare writes new keyslots into areas that nothing uses, reads them back, and returns
// the header that has them, and not those to be dropped. On the device nothing has changed
// yet that counts.
func (h *Header) Prepare(d block.Device, key []byte, drop []int, add ...NewSlot) (*Header, error) {
	if !h.Is(key) {
		return nil, errors.New("that is not the volume key")
	}
	next := h.Clone()
	next.seq++
	var made []int
	for _, a := range add {
		id, err := next.add(d, key, a)
		if err != nil {
			return nil, fmt.Errorf("making keyslot: %w", err)
		}
		made = append(made, id)
	}
	for _, id := range drop {
		next.drop(strconv.Itoa(id))
	}
	for i, id := range made {
		if _, err := next.Unlock(d, id, add[i].Secret); err != nil {
			return nil, fmt.Errorf("reading keyslot %d back: %w", id, err)
		}
	}
	if _, err := next.bytes(0); err != nil {
		return nil, err
	}
	return next, nil
}

// Change makes keyslots and drops others, as one: whenever the power is cut, either all of
// it has happened, or none. What is dropped is overwritten. h is the changed header then.
func (h *Header) Change(d block.Device, key []byte, drop []int, add ...NewSlot) error {
	next, err := h.Prepare(d, key, drop, add...)
	if err != nil {
		return err
	}
	if err := h.Heal(d); err != nil { // or a torn write of the first leaves no whole one
		return err
	}
	if err := next.WriteFirst(d); err != nil {
		return fmt.Errorf("writing LUKS2 header: %w", err)
	}
	if err := next.WriteSecond(d); err != nil {
		return fmt.Errorf("writing LUKS2 header: %w", err)
	}
	old := h.meta.Keyslots
	*h = *next
	for _, id := range drop {
		if s, ok := old[strconv.Itoa(id)]; ok {
			if err := wipe(d, s.Area); err != nil {
				return fmt.Errorf("wiping keyslot %d: %w", id, err)
			}
		}
	}
	return nil
}

// wipe overwrites an area. Media that keep old blocks elsewhere keep them; without the
// salt, which was in the header, they open nothing.
func wipe(d block.Device, a area) error {
	b := make([]byte, a.Size)
	rand.Read(b)
	if _, err := d.WriteAt(b, int64(a.Offset)); err != nil {
		return err
	}
	return d.Sync()
}

// Clone is a copy that changes by itself.
func (h *Header) Clone() *Header {
	c := *h
	c.meta.Keyslots = maps.Clone(h.meta.Keyslots)
	c.meta.Tokens = maps.Clone(h.meta.Tokens)
	d := h.meta.Digests["0"]
	d.Keyslots = slices.Clone(d.Keyslots)
	c.meta.Digests = map[string]digest{"0": d}
	return &c
}

// add makes one keyslot in a free area.
func (h *Header) add(d block.Device, key []byte, n NewSlot) (int, error) {
	id := free(h.meta.Keyslots)
	if id < 0 {
		return 0, errors.New("all keyslots are taken")
	}
	k, err := n.Cost.kdf()
	if err != nil {
		return 0, err
	}
	s := keyslot{Type: "luks2", KeySize: keySize, AF: split{"luks1", stripes, "sha256"}, KDF: k,
		Area: area{Type: "raw", Size: (keySize*stripes + 4095) / 4096 * 4096, Encryption: cipherName, KeySize: keySize}}
	if s.Area.Offset, err = h.room(s.Area.Size); err != nil {
		return 0, err
	}
	if err := s.put(d, n.Secret, key); err != nil {
		return 0, err
	}
	name := strconv.Itoa(id)
	raw, err := json.Marshal(token{Type: tokenType, Keyslots: []string{name}, Kind: n.Kind, Data: n.Data})
	if err != nil {
		return 0, err
	}
	h.meta.Keyslots[name] = s
	h.meta.Tokens[strconv.Itoa(free(h.meta.Tokens))] = raw
	dg := h.meta.Digests["0"]
	dg.Keyslots = append(dg.Keyslots, name)
	h.meta.Digests["0"] = dg
	return id, nil
}

// free is the smallest id that is not taken; negative where there is none.
func free[V any](m map[string]V) int {
	for id := range maxSlots {
		if _, taken := m[strconv.Itoa(id)]; !taken {
			return id
		}
	}
	return -1
}

// room finds a place among the keyslots that no other uses.
func (h *Header) room(size uint64) (uint64, error) {
	at := uint64(2 * h.size)
	areas := slices.SortedFunc(maps.Values(h.meta.Keyslots), func(a, b keyslot) int { return int(int64(a.Area.Offset) - int64(b.Area.Offset)) })
	for _, s := range areas {
		if s.Area.Offset >= at+size {
			break
		}
		at = s.Area.Offset + s.Area.Size
	}
	if at+size > uint64(2*h.size)+h.meta.Config.KeyslotsSize {
		return 0, errors.New("no room for another keyslot")
	}
	return at, nil
}

// drop takes a keyslot out of the header, and the tokens that speak of it alone.
func (h *Header) drop(id string) {
	delete(h.meta.Keyslots, id)
	dg := h.meta.Digests["0"]
	dg.Keyslots = slices.DeleteFunc(dg.Keyslots, func(s string) bool { return s == id })
	h.meta.Digests["0"] = dg
	for name, raw := range h.meta.Tokens {
		var t struct {
			Keyslots []string `json:"keyslots"`
		}
		if json.Unmarshal(raw, &t) == nil && slices.Equal(t.Keyslots, []string{id}) {
			delete(h.meta.Tokens, name)
		}
	}
}
