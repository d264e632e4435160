package policy

import (
	"testing"

	"lazaret/quarantine/policy/sets"
)

func TestSets(t *testing.T) {
	for _, n := range sets.Names() {
		text, _ := sets.Text(n)
		d, faults := ParseText([]byte(text))
		s := d.Set
		t.Log(n, len(s.Rules), faults.Err())
		again, faults := ParseText([]byte(Format(s)))
		t.Log(faults.Err(), again)
		t.Log(Format(s))
	}
	_, f := ParseText([]byte("name = \"x\"\n[[rule]]\nname = \"a\"\nexpression = 'os.versoin > 3'\n[[rule]]\nname = \"b\"\ncheck_every=\"1s\"\nexpression = '''\ntrue &&\n  now\n'''\n"))
	t.Log(f.Err())
	_, f = ParseText([]byte("name = \"x\"\nfoo = 3\n[[rule]]\nbar = 2\n"))
	t.Log(f.Err())
	_, f = ParseText([]byte("name = 3\n"))
	t.Log(f.Err())
	_, f = ParseText([]byte("[[rule]]\ncheck_every = \"3x\"\n"))
	t.Log(f.Err())
}
