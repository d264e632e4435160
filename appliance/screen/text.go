package screen

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"lazaret/appliance"
)

// clean reduces text from elsewhere to printable ASCII of at most limit characters. Bytes
// above 0x7f go too: in UTF-8 they may hold 0x9b, which a terminal of eight bits takes for
// the beginning of a control sequence (ECMA-48, CSI).
func clean(text string, limit int) string {
	var b strings.Builder
	for _, r := range text {
		if b.Len() == limit {
			break
		}
		if r < ' ' || r > '~' {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// longest bounds one value of a status, in characters.
const longest = 400

// fact is a row of the screen: what it is about, and what is so.
type fact struct {
	label string
	lines []string
}

// facts are the rows below the problems. Steady leaves out what changes all the time and
// means nothing by itself: the time of day, and figures of memory and disk.
func facts(st appliance.Status, now time.Time, steady bool) []fact {
	rows := []fact{
		{"State", []string{stage(st)}},
		{"System", slots(st)},
		{"Addresses", links(st.Links)},
		{"Open", st.URLs},
		{"Fingerprint", fingerprint(st.Print)},
		{"Claim code", nil},
		{"Processes", parts(st.Parts)},
		{"Clock", []string{clock(st.Clock, now, steady)}},
		{"Data", []string{disk(st.Disk, steady)}},
		{"Memory", nil},
		{"Update", update(st.Update)},
	}
	if st.Code != "" {
		rows[5].lines = []string{st.Code}
	}
	if m := st.Memory; m.Size > 0 && !steady {
		rows[9].lines = []string{fmt.Sprintf("%s of %s free", bytes(m.Available), bytes(m.Size))}
	}
	return slices.DeleteFunc(rows, func(f fact) bool { return len(f.lines) == 0 })
}

func stage(st appliance.Status) string {
	switch st.Stage {
	case appliance.Starting, "":
		return "starting"
	case appliance.Locked:
		return "locked: the data partition waits for its passphrase"
	case appliance.Unclaimed:
		if len(st.URLs) == 0 {
			return "unclaimed: once it has an address, by its page or lazaretctl claim"
		}
		return "unclaimed: the page below or lazaretctl claim, with the code"
	case appliance.Running:
		return "running"
	case appliance.Failed:
		return "cannot go on: see above"
	}
	return string(st.Stage)
}

func slots(st appliance.Status) []string {
	var rows []string
	for _, s := range st.Slots {
		how := "proven"
		if !s.Blessed {
			how = fmt.Sprintf("on trial, %d attempts left", s.Left)
		}
		at := len(rows)
		row := fmt.Sprintf("%s, %s", s.Version, how)
		if s.Booted {
			at = 0
		} else {
			row = "also there: " + row
		}
		rows = slices.Insert(rows, at, row)
	}
	if len(rows) == 0 && st.Version != "" {
		rows = []string{st.Version}
	}
	return rows
}

func links(list []appliance.LinkIs) []string {
	var rows []string
	for _, l := range list {
		row := l.Name
		for _, a := range l.Addresses {
			row += " " + a.String()
		}
		for i, g := range l.Gateways {
			row += []string{" via ", ", "}[min(i, 1)] + g.String()
		}
		switch {
		case l.Problem != "":
			row += ": " + l.Problem
		case !l.Up:
			row += ": no cable"
		case len(l.Addresses) == 0:
			row += ": no address yet"
		}
		rows = append(rows, row)
	}
	return rows
}

// fingerprint parts what does not fit on one row in the middle, after a group of four.
func fingerprint(text string) []string {
	if text == "" {
		return nil
	}
	half := (len(text)/2 + 4) / 5 * 5 // groups of four and a space
	if len(text) <= 60 || half >= len(text) {
		return []string{text}
	}
	return []string{strings.TrimRight(text[:half], " "), text[half:]}
}

func parts(list []appliance.Part) []string {
	var rows []string
	for _, p := range list {
		row := p.Name + " is ready"
		if !p.Ready {
			row = p.Name + " is not ready"
		}
		if p.Restarts > 0 {
			row += fmt.Sprintf(", restarted %d times", p.Restarts)
		}
		if p.Last != "" {
			row += ", ended last: " + p.Last
		}
		rows = append(rows, row)
	}
	return rows
}

func clock(c appliance.Clock, now time.Time, steady bool) string {
	text := ""
	if !steady {
		text = now.UTC().Format("2006-01-02 15:04 UTC, ")
	}
	switch {
	case c.Problem != "" && !c.Synchronized:
		return text + "NOT SYNCHRONIZED: " + c.Problem
	case c.Problem != "":
		return text + c.Problem
	case c.Synchronized && c.Server != "":
		return text + "by " + c.Server
	case c.Synchronized:
		return text + "synchronized"
	}
	return text + "not synchronized"
}

func disk(d appliance.Disk, steady bool) string {
	if d.Size == 0 {
		return "not open"
	}
	text := ""
	if !steady {
		text = fmt.Sprintf("%s of %s free, ", bytes(d.Free), bytes(d.Size))
	}
	if !d.Encrypted {
		return text + "NOT ENCRYPTED"
	}
	text += "encrypted, "
	switch d.Protection {
	case appliance.ByTPM:
		return text + "key in the TPM"
	case appliance.ByPassphrase:
		return text + "key behind a passphrase"
	case appliance.ByFile:
		return text + "KEY BESIDE IT: whoever has the disk has the data"
	}
	return text + "key unknown"
}

func update(u appliance.UpdateIs) []string {
	var rows []string
	if u.Problem != "" {
		rows = append(rows, u.Problem)
	}
	if u.Staged != "" {
		rows = append(rows, u.Staged+" is written, and starts at the next restart")
	}
	if u.Available != "" && u.Available != u.Staged {
		rows = append(rows, u.Available+" is there since "+u.Since.UTC().Format("2006-01-02"))
	}
	if u.Last != "" {
		rows = append(rows, u.LastAt.UTC().Format("2006-01-02: ")+u.Last)
	}
	return rows
}

// bytes writes a size in decimal units.
func bytes(n int64) string {
	if n < 10_000_000_000 {
		return fmt.Sprintf("%d MB", n/1_000_000)
	}
	return fmt.Sprintf("%d GB", n/1_000_000_000)
}

const label = 13 // columns of the left one

// body writes problems and facts on rows of width columns, at most height of them; 0 is no
// bound. What is too much shortens the longest parts, and says so.
func body(problems []string, rows []fact, width, height int) []string {
	blocks := [][]string{nil}
	for _, p := range problems {
		blocks[0] = append(blocks[0], wrap("! ", clean(p, longest), width)...)
	}
	for _, f := range rows {
		var block []string
		for _, l := range f.lines {
			block = append(block, wrap(strings.Repeat(" ", label), clean(l, longest), width)...)
		}
		block[0] = f.label + block[0][len(f.label):]
		blocks = append(blocks, block)
	}
	for height > 0 {
		total := 0
		for _, b := range blocks {
			total += len(b)
		}
		if total <= height {
			break
		}
		i, most := 0, len(blocks[0])-spared
		for at, b := range blocks[1:] {
			if len(b) > most {
				i, most = at+1, len(b)
			}
		}
		if len(blocks[i]) < 2 {
			return slices.Concat(blocks...)[:height]
		}
		blocks[i] = shorten(blocks[i], i > 0, width)
	}
	return slices.Concat(blocks...)
}

const (
	more   = " ..."
	spared = 5 // rows of problems are worth that many more than others
)

// shorten takes the last row away, and marks the one that is last now.
func shorten(block []string, labelled bool, width int) []string {
	block = slices.Clone(block[:len(block)-1])
	last := strings.TrimSuffix(block[len(block)-1], more)
	if !labelled || len(last) > label {
		last = last[:min(len(last), width-len(more))]
	}
	block[len(block)-1] = last + more
	return block
}

// wrap breaks text at spaces into rows that begin with indent; from the second row on that
// is as much room.
func wrap(indent, text string, width int) []string {
	var rows []string
	room := max(width-len(indent), 10)
	for len(text) > room {
		cut := strings.LastIndexByte(text[:room+1], ' ')
		if cut < 1 {
			cut = room
		}
		rows = append(rows, indent+strings.TrimRight(text[:cut], " "))
		text = strings.TrimLeft(text[cut:], " ")
		indent = strings.Repeat(" ", len(indent))
	}
	return append(rows, indent+text)
}

// title is the first row.
func title(st appliance.Status, width int) string {
	left := " Lazaret " + clean(st.Version, 30)
	right := clean(st.Name, 40) + " "
	return left + strings.Repeat(" ", max(1, width-len(left)-len(right))) + right
}

// page is what the video console shows: at most height rows of at most width columns.
func page(st appliance.Status, menu []string, now time.Time, width, height int) []string {
	rule := strings.Repeat("-", width)
	room := max(height-3-len(menu), 1)
	rows := append([]string{title(st, width), rule}, body(st.Problems, facts(st, now, false), width, room)...)
	for len(rows) < height-1-len(menu) {
		rows = append(rows, "")
	}
	rows = append(append(rows, rule), menu...)
	for i, r := range rows {
		rows[i] = r[:min(len(r), width)]
	}
	return rows[:min(len(rows), height)]
}

// block is what a serial line shows.
func block(st appliance.Status, menu []string, now time.Time, steady bool) []string {
	rule := strings.Repeat("-", columns)
	rows := append([]string{rule, title(st, columns)}, body(st.Problems, facts(st, now, steady), columns, 0)...)
	return append(append(rows, menu...), rule)
}
