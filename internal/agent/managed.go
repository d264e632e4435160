package agent

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"crypto/x509"

	"lazaret/internal/agentapi"
)

const (
	managedFile = "manage.json"

	maxOutcomes = 32 // kept of commands
	maxNotices  = 16
)

// managed is what the device knows of its management sessions. It is on the disk before
// anything that follows from it happens.
type managed struct {
	Version  int       `json:"v"`                // 1
	Sequence uint64    `json:"sequence"`         // of the last session
	Executed uint64    `json:"executed"`         // the highest command that was begun
	Wake     uint64    `json:"wake"`             // counter of the last wake-up that was accepted
	Signer   [][]byte  `json:"signer,omitempty"` // chain of the management signer, DER
	Begun    *outcome  `json:"begun,omitempty"`  // the command that is under way
	Outcomes []outcome `json:"outcomes,omitempty"`
	Notices  []Notice  `json:"notices,omitempty"`
}

// outcome is what became of a command.
type outcome struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	Sequence uint64    `json:"sequence"`
	State    string    `json:"state"`
	Detail   string    `json:"detail,omitempty"`
	At       time.Time `json:"at"`
	Told     bool      `json:"told"` // the gateway has it
}

// Executed is a command as the device's user may see it.
type Executed struct {
	ID     string    `json:"id"`
	Kind   string    `json:"kind"`
	State  string    `json:"state"`
	Detail string    `json:"detail,omitempty"`
	At     time.Time `json:"at"`
	Told   bool      `json:"told"` // the gateway knows
}

// Notice is a text of an administrator to the device's user.
type Notice struct {
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

func (m managed) clone() managed {
	m.Outcomes, m.Notices = slices.Clone(m.Outcomes), slices.Clone(m.Notices)
	return m
}

// find returns what became of a command, nil where that is not known.
func (m *managed) find(id string) *outcome {
	i := slices.IndexFunc(m.Outcomes, func(o outcome) bool { return o.ID == id })
	if i < 0 {
		return nil
	}
	return &m.Outcomes[i]
}

// keep files an outcome in the place of one of the same command; the oldest make room,
// those first that the gateway has.
func (m *managed) keep(o outcome) {
	if known := m.find(o.ID); known != nil {
		*known = o
		return
	}
	if len(m.Outcomes) >= maxOutcomes {
		i := max(slices.IndexFunc(m.Outcomes, func(o outcome) bool { return o.Told }), 0)
		m.Outcomes = slices.Delete(m.Outcomes, i, i+1)
	}
	m.Outcomes = append(m.Outcomes, o)
}

// untold are the outcomes that the gateway does not have.
func (m *managed) untold() (all []outcome) {
	for _, o := range m.Outcomes {
		if !o.Told {
			all = append(all, o)
		}
	}
	return all
}

func (m *managed) executed() (all []Executed) {
	for _, o := range m.Outcomes {
		all = append(all, Executed{o.ID, o.Kind, o.State, o.Detail, o.At, o.Told})
	}
	return all
}

// signerID names the management signer that is known, empty for none.
func (m *managed) signerID() string {
	if len(m.Signer) == 0 {
		return ""
	}
	leaf, err := x509.ParseCertificate(m.Signer[0])
	if err != nil {
		return ""
	}
	id := agentapi.SignerID(leaf)
	return hex.EncodeToString(id[:])
}

// loadManaged reads what is known; a device that never held a session knows nothing.
func (s store) loadManaged() (managed, error) {
	m := managed{Version: 1}
	text, err := os.ReadFile(filepath.Join(s.dir, managedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err == nil && m.Version != 1 {
		err = fmt.Errorf("it is of version %d, this agent reads 1", m.Version)
	}
	if err != nil {
		return managed{}, fmt.Errorf("reading %s: %w", managedFile, err)
	}
	return m, nil
}

func (s store) saveManaged(m managed) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping commands: %w", err)
	}
	return s.write(managedFile, text)
}

// recoverManaged reads what is known after a start. A command that was begun and not ended
// is not begun again: how it ended is not known.
func (s store) recoverManaged() (managed, error) {
	m, err := s.loadManaged()
	if err != nil || m.Begun == nil {
		return m, err
	}
	o := *m.Begun
	o.State, o.Detail, o.At, o.Told = agentapi.Unknown, "it was begun, and the agent ended before it did", time.Now().UTC(), false
	m.Begun = nil
	m.keep(o)
	return m, s.saveManaged(m)
}

// note changes what is known, on the disk first.
func (a *Agent) note(change func(*managed)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.noteLocked(change)
}

// noteLocked is note; the caller holds mu.
func (a *Agent) noteLocked(change func(*managed)) error {
	next := a.managed.clone()
	change(&next)
	if err := a.store.saveManaged(next); err != nil {
		return err
	}
	a.managed = next
	return nil
}

// tell wakes whoever waits for something about the device to change. The caller holds mu.
func (a *Agent) tell() {
	if a.news != nil {
		close(a.news)
		a.news = nil
	}
}
