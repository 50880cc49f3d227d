package spare

import "time"

const (
	// firstPause and longestPause bound the wait before a spare is made anew
	// that could not be made or did not stay.
	firstPause   = time.Second
	longestPause = time.Minute
	// refillPause keeps the start of the next spare from slowing down the client
	// for which the last one was taken.
	refillPause = time.Second
)

// pace spaces attempts; each failure doubles the pause.
type pace struct {
	failures  int
	notBefore time.Time
}

func (p *pace) fail() {
	pause := longestPause
	if p.failures < 6 { // 2^6 s is more than a minute.
		pause = firstPause << p.failures
	}
	p.failures++
	p.notBefore = time.Now().Add(pause)
}

// due tells how long to wait; 0 or less for not at all.
func (p *pace) due() time.Duration { return time.Until(p.notBefore) }
