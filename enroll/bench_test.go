package enroll

import (
	"testing"

	"lazaret/enroll/cmp"
)

// BenchmarkEnrollment is one full enrollment at the desk: genm, p10cr, certConf, over a
// store in memory. What the device computes is outside of the timer.
func BenchmarkEnrollment(b *testing.B) {
	g := newGateway(b)
	params := cmp.NewMACParams() // as our own agent: 500 iterations
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		clear(g.store.devices) // the fake looks through all of them
		d := g.device(b, Request{})
		d.mac = &params
		one, three := d.genm(), d.p10cr()
		b.StartTimer()
		d.post(one)
		answer := d.post(three)
		b.StopTimer()
		m := d.parse(answer)
		five := d.certConf(m, d.certificate(m))
		b.StartTimer()
		if a := d.post(five); a.Body.Len() == 0 {
			b.Fatal("no answer")
		}
	}
}
