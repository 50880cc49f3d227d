package probe

// Bound lets a test have fewer probes that wait.
func (p *Prober) Bound(count int) { p.slots = make(chan struct{}, count) }

// Waiting is how many wait for the answer of a mount's process.
func (p *Prober) Waiting(mount string) int {
	p.gates.mu.Lock()
	defer p.gates.mu.Unlock()
	if present := p.gates.running[mount]; present != nil {
		return max(present.waiting, 0)
	}
	return 0
}
