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
