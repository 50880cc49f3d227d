package launcher

// Alive tells whether jfs-launch still holds its end of the connection: its
// process runs, whatever others say of its pod.
func (s *Session) Alive() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}
