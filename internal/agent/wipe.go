package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"lazaret/internal/agentapi"
)

const (
	wipingFile = "wiping.json" // a wipe was begun, and is not over
	wipedFile  = "wiped.json"  // what is left of an enrollment that was wiped: a date
	lockName   = "lock"

	// wipePatience is how long a wipe waits for the gateway to take its acknowledgement. The
	// device is wiped without it, too.
	wipePatience = 2 * time.Minute
)

// identity is what a wipe keeps until it is acknowledged: without it nobody could tell the
// gateway.
var identity = []string{stateFile, keyFile, nextKeyFile, wireguardFile, nextWireguard, managedFile, wipingFile, lockName}

// ErrWiped reports that the device was wiped as the gateway ordered, and is enrolled no more.
var ErrWiped = errors.New("this device was wiped as its gateway ordered")

// tombstone is all that is left.
type tombstone struct {
	Version int       `json:"v"` // 1
	Wiped   time.Time `json:"wiped"`
}

// orderWipe notes that the device is to be wiped. From here on nothing stops it: an agent
// that is started anew does it before all else.
func (a *Agent) orderWipe(o outcome) error {
	o.State, o.Detail = agentapi.Begun, "wiping: all but what it takes to say so is removed"
	if err := a.store.saveWipe(o); err != nil {
		return err
	}
	a.log.Warn("the gateway orders this device to be wiped", "command", o.ID)
	a.step("wipe ordered")
	return errWipe
}

func (s store) saveWipe(o outcome) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return s.write(wipingFile, text)
}

// wipeOrder returns the wipe that was begun here, nil for none. One that cannot be read is
// one all the same.
func (s store) wipeOrder() (*outcome, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, wipingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for a wipe that was begun: %w", err)
	}
	var o outcome
	if json.Unmarshal(text, &o) != nil {
		o = outcome{Told: true}
	}
	return &o, nil
}

// resumeWipe ends a wipe that an earlier run began.
func resumeWipe(ctx context.Context, c Config, s store, order *outcome) error {
	c.Log.Warn("ending the wipe that was begun before", "command", order.ID)
	a := newAgentOf(c, s, state{}, managed{}, func() {})
	st, err := s.load()
	if err == nil && !order.Told {
		m, fault := s.loadManaged()
		if fault != nil {
			m = managed{Version: 1} // the gateway says where it stands
		}
		a.state, a.managed = st, m
		err = a.up(ctx)
	}
	if err != nil {
		a.log.Warn("the gateway is not told of the wipe", "err", err)
	}
	return a.wipe(ctx)
}

// wipe removes all that enrollment gave. First goes everything but what it takes to tell
// the gateway; then the gateway is told, signed, as long as that takes but for wipePatience;
// then goes the rest, and it is looked whether anything is left. Nothing else of the agent
// runs any more. It returns ErrWiped, or what is left and why.
func (a *Agent) wipe(ctx context.Context) error {
	order, err := a.store.wipeOrder()
	if err != nil || order == nil {
		return errors.Join(errors.New("wiping without an order"), err)
	}
	a.step("wipe begun")
	faults := []error{a.undress(), a.store.shred(identity)}
	a.step("wipe undressed")
	if a.api != nil && !order.Told {
		if err := a.acknowledgeWipe(ctx, *order); err != nil {
			a.log.Warn("the gateway is not told of the wipe", "err", err)
		}
		order.Told = true // not again: what it takes is removed now
		faults = append(faults, a.store.saveWipe(*order))
	}
	a.step("wipe told")
	faults = append(faults, a.store.shred([]string{wipingFile, lockName}))
	a.step("wipe shredded")
	faults = append(faults, a.unplug())
	a.step("wipe unplugged")
	if err := errors.Join(append(faults, a.left())...); err != nil {
		return fmt.Errorf("wiping this device: %w; it is tried again at the next start", err)
	}
	text, err := json.Marshal(tombstone{Version: 1, Wiped: time.Now().UTC().Truncate(time.Second)})
	if err == nil {
		err = a.store.write(wipedFile, text)
	}
	a.step("wipe buried")
	if err = errors.Join(err, a.store.remove(wipingFile)); err != nil {
		return fmt.Errorf("wiping this device: %w", err)
	}
	return ErrWiped
}

// undress gives the device's own DNS servers back, and leaves no way into the tunnel but
// that to the gateway and the management servers.
func (a *Agent) undress() error {
	file := &resolvConf{path: a.config.resolvConf(), log: a.log}
	var faults []error
	if a.dns != nil {
		faults = append(faults, a.dns.restore())
	}
	a.dns = nil
	if left, err := file.left(); left || err != nil {
		faults = append(faults, err, file.restore())
	}
	if a.net != nil {
		settings := a.state.Settings
		settings.Full.Addresses, settings.Full.Routes = nil, nil
		want, err := layoutFor(settings, a.via)
		if err == nil {
			err = a.applyNetwork(want)
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// acknowledgeWipe tells the gateway that the device is being wiped, until it has taken that.
func (a *Agent) acknowledgeWipe(ctx context.Context, order outcome) error {
	ctx, cancel := context.WithTimeout(ctx, wipePatience)
	defer cancel()
	err := a.note(func(m *managed) {
		m.Executed = max(m.Executed, order.Sequence)
		m.Begun = nil
		m.keep(order)
	})
	if err != nil {
		return err
	}
	for {
		if err = a.tellWipe(ctx, order.ID); err == nil {
			return nil
		}
		a.log.Warn("telling the gateway of the wipe", "err", err)
		a.other() // a key of the tunnel may be the one that is not answered
		if wait(ctx, retryFirst) != nil {
			return err
		}
	}
}

// other lets the tunnel use its other key, where it has two.
func (a *Agent) other() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.keys.next.IsZero() && time.Since(a.keys.turned) > keyPatience {
		if err := a.swapKey(); err != nil {
			a.log.Error("changing the tunnel's key", "err", err)
		}
	}
}

func (a *Agent) tellWipe(ctx context.Context, id string) error {
	c, err := a.client().channel(ctx)
	if err != nil {
		return err
	}
	defer c.end()
	d, err := a.greet(ctx, c)
	if err != nil {
		return err
	}
	a.mu.Lock()
	executed, results := a.managed.Executed, a.managed.untold()
	a.mu.Unlock()
	orders, err := d.exchange(ctx, executed, results[max(len(results)-agentapi.MaxTogether, 0):])
	if err == nil && !slices.Contains(orders.Taken, id) {
		err = errors.New("the gateway did not take it")
	}
	return err
}

// unplug removes the tunnel and its routing rules, of this run or of one that was killed.
func (a *Agent) unplug() error {
	_, err := dropRules()
	if a.net != nil {
		return errors.Join(err, a.net.Remove())
	}
	return errors.Join(err, removeLink(a.config.Interface))
}

// left looks whether anything is left of what enrollment gave.
func (a *Agent) left() error {
	var faults []error
	list, err := os.ReadDir(a.store.dir)
	if err != nil {
		faults = append(faults, fmt.Errorf("looking what is left: %w", err))
	}
	for _, e := range list {
		if e.Name() != wipingFile && e.Name() != lockName {
			faults = append(faults, fmt.Errorf("%s is still there", filepath.Join(a.store.dir, e.Name())))
		}
	}
	if n, err := dropRules(); n > 0 || err != nil {
		faults = append(faults, fmt.Errorf("%d routing rules were still there: %w", n, err))
	}
	if _, err := net.InterfaceByName(a.config.Interface); err == nil {
		faults = append(faults, fmt.Errorf("the interface %s is still there", a.config.Interface))
	}
	file := &resolvConf{path: a.config.resolvConf(), log: a.log}
	if s, err := file.standing(); err != nil || s == replaced {
		faults = append(faults, fmt.Errorf("%s still holds the tunnel's DNS servers: %w", file.path, err))
	}
	return errors.Join(faults...)
}

// shred overwrites and removes everything in the directory but what is named. Overwriting
// reaches the same blocks only where the file system and the disk write in place: a copying
// file system, a journal of data, a snapshot or the spare blocks of an SSD may keep what was
// there.
func (s store) shred(but []string) error {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("removing what enrollment gave: %w", err)
	}
	var faults []error
	for _, e := range list {
		if slices.Contains(but, e.Name()) {
			continue
		}
		path := filepath.Join(s.dir, e.Name())
		err := filepath.WalkDir(path, func(at string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				err = overwrite(at)
			}
			return err
		})
		faults = append(faults, err, os.RemoveAll(path))
	}
	return errors.Join(append(faults, s.sync())...)
}

// overwrite writes zeros over a file, and has them on the disk.
func overwrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = io.CopyN(f, zeros{}, info.Size())
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// zeros reads as zeros without end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
