package update

// Pin is the one bundle that may be staged, where somebody has said which: a channel's
// signed list. An empty field says nothing.
type Pin struct {
	Version string
	SHA256  string // of the image, hexadecimal
}

// pinned holds a manifest to every pin.
func pinned(man Manifest, pins []Pin) error {
	for _, p := range pins {
		switch {
		case p.Version != "" && p.Version != man.Version:
			return refused("the bundle is of version %s, and %s was to come", man.Version, p.Version)
		case p.SHA256 != "" && p.SHA256 != man.SHA256:
			return refused("the bundle of version %s holds another image than the channel says", man.Version)
		}
	}
	return nil
}

// noteNotStarted writes down that the boot loader passed over a version. It may be installed
// by itself once more; from the second time on a person has to say so, or the machine would
// restart for it again and again.
func (m *Manager) noteNotStarted(r *record, version string) {
	was := r.Last
	r.say(m.cfg.Now().UTC(), true, "version %s was written and not started; version %s runs", version, m.cfg.Version)
	r.Pending = nil
	if r.Last == was {
		r.Failed = version
	}
}
