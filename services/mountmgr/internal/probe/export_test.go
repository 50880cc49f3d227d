package probe

// Bound lets a test have fewer probes that wait.
func (p *Prober) Bound(count int) { p.slots = make(chan struct{}, count) }
