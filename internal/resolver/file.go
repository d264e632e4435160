package resolver

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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

// tidy removes what writes of an earlier process left beside File: they were never whole.
func (r *Resolver) tidy() error {
	dir, base := filepath.Split(r.cfg.File)
	list, err := os.ReadDir(cmp.Or(dir, "."))
	for _, e := range list {
		if rest, ok := strings.CutPrefix(e.Name(), base+"."); ok && strings.Trim(rest, "0123456789") == "" {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("clearing what is left of earlier writes: %w", err)
	}
	return nil
}

// load reads File; none is no error. The ends it holds are times of day; from here on they
// are kept by the clock that nobody sets, of which now must bear a reading.
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
				left := min(p.Good.Sub(now), MaxTTL) // more if the clock was set back meanwhile
				good := now.Add(left)
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
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // named as tidy looks for them
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
