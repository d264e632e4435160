package machine

import (
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/appliance/boot"
	"lazaret/appliance/screen"
)

// actions are what the screen's menu offers.
func (m *Machine) actions() screen.Actions {
	return screen.Actions{
		SetAddress:         m.setAddress,
		ResetAdministrator: m.resetAdministrator,
		SetPassphrase:      m.SetPassphrase,
		Seal:               m.Seal,
		NewRecovery:        m.NewRecovery,
		AcceptTime:         m.acceptTime,
		SetTime:            m.setTime,
		CheckTime:          func(at time.Time) error { return m.clock.Check(at) },
		RollBack:           m.Rollback,
		FactoryReset:       m.reset,
		Reboot:             func(context.Context) error { m.finish(boot.Restart, "asked at the screen"); return nil },
		PowerOff:           func(context.Context) error { m.finish(boot.PowerOff, "asked at the screen"); return nil },
		Log:                m.lastLines,
	}
}

// look shows what changes by itself, until ctx ends.
func (m *Machine) look(ctx context.Context) error {
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for {
		links := m.network.Changed()
		m.refresh()
		m.looked.Store(int64(time.Since(m.booted).Seconds()))
		select {
		case <-links:
			m.clock.Kick() // there may be a way to the time servers now
		case <-m.parts.Changed():
			select {
			case m.moved <- struct{}{}:
			default:
			}
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// show changes what is shown.
func (m *Machine) show(change func(*state)) {
	m.mu.Lock()
	change(&m.state)
	m.mu.Unlock()
	m.refresh()
}

func (m *Machine) stage(s appliance.Stage) { m.show(func(st *state) { st.stage = s }) }

// problem notes what is wrong with a subject, as a sentence; an empty one takes it back.
func (m *Machine) problem(subject, sentence string) {
	m.show(func(st *state) {
		if sentence == "" {
			delete(st.problems, subject)
		} else {
			st.problems[subject] = sentence
		}
	})
}

// refresh shows how the machine does now.
func (m *Machine) refresh() {
	if m.screen != nil && m.parts != nil { // all are made before anything runs
		m.screen.Show(m.status())
	}
}

// status gathers what all parts say of themselves. Those that there are not yet say nothing.
func (m *Machine) status() appliance.Status {
	m.mu.Lock()
	st := m.state
	problems := slices.Collect(maps.Values(m.state.problems))
	m.mu.Unlock()
	slices.Sort(problems)
	s := appliance.Status{
		Stage: st.stage, Name: st.name, Version: m.version, URLs: st.urls, Print: st.print, Code: st.code,
		Booted: m.booted, Memory: memory(), Problems: problems,
	}
	if st.data != nil {
		s.Disk = st.data.Status()
		s.Problems = append(s.Problems, st.data.Problems()...)
	}
	s.Links, s.Clock, s.Parts = m.network.Links(), m.clock.Status(), m.parts.Parts()
	for _, p := range append([]string{clockProblem(s, m.clock.Doubtful(), time.Now()), cardProblem(s, "/sys", m.flavour)}, m.parts.Problems()...) {
		if p != "" {
			s.Problems = append(s.Problems, p)
		}
	}
	if s.Stage == appliance.Unclaimed {
		s.URLs = claimURLs(s.Links)
	}
	if st.updates != nil {
		s.Update, s.Slots = st.updates.Is(), st.updates.Slots()
	}
	return s
}

func memory() appliance.Memory {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return appliance.Memory{}
	}
	unit := int64(info.Unit)
	return appliance.Memory{Size: int64(info.Totalram) * unit, Available: int64(info.Freeram+info.Bufferram) * unit}
}

// lastLines is the log's end for the screen.
func (m *Machine) lastLines(n int) []string {
	var out []string
	for _, l := range m.tail(n) {
		out = append(out, l.At.UTC().Format("15:04:05 ")+l.Origin+": "+l.Text)
	}
	return out
}
