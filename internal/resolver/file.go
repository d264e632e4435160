package resolver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// savedFile is what File holds: a restart during an outage must not close the management
// server. What may be opened is decided anew, whatever it says.
type savedFile struct {
	V     int                         `json:"v"` // 1
	Names map[string][2][]savedPinned `json:"names"`
}

type savedPinned struct {
	Addr    netip.Addr `json:"addr"`
	Since   time.Time  `json:"since"`
	Good    time.Time  `json:"good"`
	Current bool       `json:"current,omitempty"`
	Open    bool       `json:"open,omitempty"`
}

// maxFile bounds what is read back, in bytes.
const maxFile = 4 << 20

// load reads File; none is no error.
func (r *Resolver) load(now time.Time) error {
	info, err := os.Stat(r.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("%d bytes are too many", info.Size())
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(r.cfg.File)
	}
	var file savedFile
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err == nil && file.V != 1 {
		err = fmt.Errorf("written with version %d, this program reads 1", file.V)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", r.cfg.File, err)
	}
	for text, families := range file.Names {
		n := &name{}
		for i, pins := range families {
			for _, p := range pins {
				if !p.Addr.IsValid() || p.Addr.Is4() != (i == 0) {
					continue
				}
				good := p.Good
				if limit := now.Add(MaxTTL); good.After(limit) {
					good = limit // the clock was set back meanwhile
				}
				pin := Pin{Addr: p.Addr, Since: p.Since, Good: good, Current: p.Current}
				if p.Open {
					r.choices++ // in the order of the file
					pin.held = r.choices
				}
				n.families[i].pins = append(n.families[i].pins, pin)
			}
			n.families[i].expire(now, r.times)
		}
		r.names[text] = n
	}
	return nil
}

// save writes File when something changed: now, or else not too often, for the disk's sake.
// It is a help, and no more: a failure is logged.
func (r *Resolver) save(now bool) {
	r.mu.Lock()
	if r.cfg.File == "" || !r.unsaved || !now && !r.urgent && time.Since(r.saved) < saveEvery {
		r.mu.Unlock()
		return
	}
	file := savedFile{V: 1, Names: make(map[string][2][]savedPinned)}
	for text, n := range r.names {
		var both [2][]savedPinned
		for i, f := range n.families {
			for _, p := range f.pins {
				both[i] = append(both[i], savedPinned{p.Addr, p.Since.UTC().Round(0), p.Good.UTC().Round(0), p.Current, p.held > 0})
			}
		}
		file.Names[text] = both
	}
	r.saved, r.unsaved, r.urgent = time.Now(), false, false
	r.mu.Unlock()
	if err := write(r.cfg.File, file); err != nil {
		r.cfg.Log.Warn("keeping the addresses of names for the next start", "error", err)
	}
}

// write replaces a file, whole or not at all.
func write(path string, file savedFile) error {
	text, err := json.Marshal(file)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
