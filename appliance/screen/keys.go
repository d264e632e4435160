package screen

// key is a byte that was typed, or one of the names below.
type key int

const (
	enter     key = '\n'
	escape    key = 0x1b // alone, or Ctrl-C
	backspace key = 0x7f
	erase     key = 0x15 // Ctrl-U: the whole line
)

// keyboard makes keys of the bytes a terminal sends. Sequences of function and arrow keys
// (ECMA-48) are no keys: what they hold must not be taken for typed letters. Its zero value
// is ready.
type keyboard struct {
	state byte // 0x1b after an escape, then what followed it
	told  bool // of that escape
}

// feed takes what was read at once. An escape at its end is the key, though the rest of a
// sequence may still follow; so is one that begins no sequence.
func (k *keyboard) feed(b []byte) []key {
	var keys []key
	for i, c := range b {
		switch k.state {
		case '[': // parameters, then a final byte
			if c >= 0x40 && c <= 0x7e {
				k.state = 0
			}
			continue
		case 'O': // one more byte
			k.state = 0
			continue
		case 0x1b:
			if c == '[' || c == 'O' {
				k.state = c
				continue
			}
			k.state = 0
			if !k.told {
				keys = append(keys, escape)
			}
		}
		switch {
		case c == 0x1b:
			k.state, k.told = c, i == len(b)-1
			if k.told {
				keys = append(keys, escape)
			}
		case c == 0x03:
			keys = append(keys, escape)
		case c == '\r' || c == '\n':
			keys = append(keys, enter)
		case c == 0x08 || c == 0x7f:
			keys = append(keys, backspace)
		case c == 0x15 || c >= ' ':
			keys = append(keys, key(c))
		}
	}
	return keys
}

// edit is a line that is being typed.
type edit struct {
	text   []byte
	limit  int
	secret bool // takes bytes above 0x7f too; nothing of it is shown
}

// press takes a key and returns what is to be written to the terminal for it.
func (e *edit) press(k key) string {
	n := len(e.text)
	switch {
	case k == backspace && n > 0:
		e.text = e.text[:n-1]
		return e.shown("\b \b")
	case k == erase:
		clear(e.text)
		e.text = e.text[:0]
		back := ""
		for range n {
			back += "\b \b"
		}
		return e.shown(back)
	case k >= ' ' && k <= '~', e.secret && k >= 0x80 && k <= 0xff:
		if n == e.limit {
			return "\a"
		}
		e.text = append(e.text, byte(k))
		return e.shown(string(rune(k)))
	}
	return ""
}

func (e *edit) shown(text string) string {
	if e.secret {
		return ""
	}
	return text
}
