package policy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"lazaret/quarantine"
)

// word is what one source said last of a device.
type word struct {
	name        string
	source      quarantine.Source
	known       bool // the source is still registered, and speaks for the device
	report      quarantine.Report
	from, until time.Time // when it counts
	start       time.Time // from which its facts age
}

func (w *word) live(now time.Time) bool { return !now.Before(w.from) && now.Before(w.until) }

// fresh reports whether its facts are no older than every, if that is set.
func (w *word) fresh(now time.Time, every time.Duration) bool {
	return every <= 0 || now.Before(w.start.Add(every))
}

// tells returns what the source says of a fact that it may speak of.
func (w *word) tells(f Fact) (string, bool) {
	text, ok := w.report.Facts[f.Name]
	return text, ok && f.saidBy(w.name, w.source, w.known)
}

// wordsOf are the reports on a device, the most trusted first: sources with the right to
// release, newest first, then others, then the device's own agent.
func wordsOf(f quarantine.Facts) []word {
	words := make([]word, 0, len(f.Record.Reports))
	for name, r := range f.Record.Reports {
		s, known := f.Sources[name]
		w := word{name: name, source: s, known: known && s.For.Selects(f.Record, f.Profile), report: r}
		w.from, w.until = quarantine.Life(r, s)
		w.start = w.from
		words = append(words, w)
	}
	rank := func(w *word) int {
		switch {
		case w.name == quarantine.AgentSource:
			return 2
		case w.source.MayRelease:
			return 0
		}
		return 1
	}
	slices.SortFunc(words, func(a, b word) int {
		return cmp.Or(cmp.Compare(rank(&a), rank(&b)), b.report.At.Compare(a.report.At),
			cmp.Compare(b.report.Sequence, a.report.Sequence), strings.Compare(a.name, b.name))
	})
	return words
}

const nobody = -1

// seen is a fact that was asked for, and what each source says of it. It is made once for a
// device.
type seen struct {
	fact  Fact
	value ref.Val // of a fact on record
	says  []said  // of words, in their order
}

// said is what one source says of a fact.
type said struct {
	text  string
	ok    bool // it says something, and may
	done  bool // it was read
	value ref.Val
	bad   bool // its text is none of the fact's type
}

// touch is a fact that an evaluation looked at.
type touch struct {
	nth   int // of the view's facts
	fact  Fact
	word  int    // whose word was taken; nobody
	text  string // what it said
	value ref.Val
	stale bool // older than the rule's check_every, so that it can only speak against
	bad   bool // its text is none of the fact's type
	asked bool // by known()
}

// view is what one evaluation sees: the word of the most trusted source on every fact, or,
// where over is set, the word of that source first.
type view struct {
	words  []word
	record *quarantine.Record
	groups []string
	facts  []seen // asked for by any evaluation
	room   []said // of facts

	now     time.Time
	every   time.Duration // the rule's check_every
	over    int           // of words, or nobody
	touched []touch
	turn    time.Time // earliest instant at which a comparison with the time turns out otherwise
	probe   *probe    // for checks of a rule without a device; else nil
}

// reset makes the view that of a device. Nothing of the last one stays.
func (v *view) reset(words []word, r *quarantine.Record, groups []string) {
	clear(v.facts)
	clear(v.room)
	clear(v.touched)
	*v = view{words: words, record: r, groups: groups, facts: v.facts[:0], room: v.room[:0], touched: v.touched[:0]}
}

func (v *view) begin(now time.Time, every time.Duration, over int) {
	v.now, v.every, v.over = now, every, over
	v.touched, v.turn = v.touched[:0], time.Time{}
}

// changesAt notes that the evaluation may turn out otherwise at an instant.
func (v *view) changesAt(t time.Time) {
	if v.turn.IsZero() || t.Before(v.turn) {
		v.turn = t
	}
}

// look returns what is known of a fact in this view, and notes that it was asked for.
func (v *view) look(name string) *touch {
	for i := range v.touched {
		if v.touched[i].fact.Name == name {
			return &v.touched[i]
		}
	}
	nth := v.see(name)
	s := &v.facts[nth]
	t := touch{nth: nth, fact: s.fact, word: nobody, value: s.value}
	switch {
	case v.probe != nil:
		t.value = v.probe.value(name)
	case s.value == nil:
		v.pick(s, &t)
	}
	v.touched = append(v.touched, t)
	return &v.touched[len(v.touched)-1]
}

// see finds a fact among those asked for, or gathers what is said of it.
func (v *view) see(name string) int {
	for i := range v.facts {
		if v.facts[i].fact.Name == name {
			return i
		}
	}
	f, ok := factNamed(name)
	if !ok {
		f = Fact{Name: name, from: record}
	}
	s := seen{fact: f}
	if f.from == record {
		if v.record != nil {
			s.value = v.onRecord(name)
		}
	} else {
		start := len(v.room)
		for i := range v.words {
			text, ok := v.words[i].tells(f)
			v.room = append(v.room, said{text: text, ok: ok})
		}
		s.says = v.room[start:len(v.room):len(v.room)]
	}
	v.facts = append(v.facts, s)
	return len(v.facts) - 1
}

// pick takes the first word on the fact in the order of the view.
func (v *view) pick(s *seen, t *touch) {
	if v.over != nobody && s.says[v.over].ok && v.words[v.over].live(v.now) {
		s.take(t, v.over)
		t.stale = !v.words[v.over].fresh(v.now, v.every)
		return
	}
	for i := range s.says {
		if w := &v.words[i]; s.says[i].ok && w.live(v.now) && w.fresh(v.now, v.every) {
			s.take(t, i)
			return
		}
	}
}

// take takes the word of one source, whose text is read the first time.
func (s *seen) take(t *touch, i int) {
	say := &s.says[i]
	if !say.done {
		value, ok := s.fact.Type.read(say.text)
		if ok {
			say.value = value
		}
		say.bad, say.done = !ok, true
	}
	t.word, t.text, t.value, t.bad = i, say.text, say.value, say.bad
}

// fact is a fact's value in an expression; a missing one is unknown.
func (v *view) fact(name string) ref.Val {
	t := v.look(name)
	if t.value != nil {
		return t.value
	}
	return types.NewUnknown(int64(slices.IndexFunc(v.touched, func(o touch) bool { return o.fact.Name == name })), nil)
}

// known says whether a fact is known, and has a value of its type.
func (v *view) known(name string) ref.Val {
	t := v.look(name)
	t.asked = true
	if v.probe != nil && t.value == nil && name != v.probe.fact {
		return types.NewUnknown(0, nil)
	}
	return types.Bool(t.value != nil)
}

// onRecord is what is on record of the device: known at any time.
func (v *view) onRecord(name string) ref.Val {
	r := v.record
	switch name {
	case "device.name":
		return types.String(r.Name)
	case "device.owner":
		return types.String(r.Owner)
	case "device.ownership":
		return types.String(r.Ownership)
	case "device.platform":
		return types.String(r.Platform)
	case "device.profile":
		return types.String(r.Profile)
	case "device.enrolled_serial":
		return types.String(r.Serial)
	case "device.groups":
		return types.NewStringList(types.DefaultTypeAdapter, v.groups)
	default:
		return nil
	}
}

// next is the earliest instant after now at which an evaluation that looked at the touched
// facts may turn out otherwise, without any new report; zero: never.
func (v *view) next() time.Time {
	first := time.Time{}
	add := func(t time.Time) {
		if t.After(v.now) && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	add(v.turn)
	for i := range v.touched {
		for j, say := range v.facts[v.touched[i].nth].says {
			if !say.ok {
				continue
			}
			w := &v.words[j]
			add(w.from)
			add(w.until)
			if v.every > 0 {
				add(w.start.Add(v.every))
			}
		}
	}
	return first
}

// differs reports whether a source, live now, says something else of a fact that was looked
// at than the one whose word was taken.
func (v *view) differs(j int) bool {
	if !v.words[j].live(v.now) {
		return false
	}
	for i := range v.touched {
		t := &v.touched[i]
		says := v.facts[t.nth].says
		if j < len(says) && says[j].ok && t.word != j && (t.word == nobody || says[j].text != t.text) {
			return true
		}
	}
	return false
}
