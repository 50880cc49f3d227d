package store

import (
	"slices"
	"time"

	"github.com/juicefs-csi/driver/libs/volume"
)

// UpgradePhase is a step of an upgrade. The strings are stored on disk.
type UpgradePhase string

// The phases, in their order.
const (
	UpgradePlanned        UpgradePhase = "Planned"
	UpgradeSuccessorReady UpgradePhase = "SuccessorReady"
	UpgradeHandingOver    UpgradePhase = "HandingOver"
	UpgradeAdopted        UpgradePhase = "Adopted"
	UpgradeCommitted      UpgradePhase = "Committed"
	UpgradeRolledBack     UpgradePhase = "RolledBack"
)

// UpgradePhases lists every phase in the order in which an upgrade reaches them.
func UpgradePhases() []UpgradePhase {
	return []UpgradePhase{
		UpgradePlanned, UpgradeSuccessorReady, UpgradeHandingOver, UpgradeAdopted, UpgradeCommitted, UpgradeRolledBack,
	}
}

// Before tells whether p comes before other.
func (p UpgradePhase) Before(other UpgradePhase) bool {
	return slices.Index(UpgradePhases(), p) < slices.Index(UpgradePhases(), other)
}

// Ended is true in the phases that nothing follows.
func (p UpgradePhase) Ended() bool { return p == UpgradeCommitted || p == UpgradeRolledBack }

// Upgrade is the planned replacement of a mount's client by one with the
// present settings.
type Upgrade struct {
	ID          string       `json:"id"`
	Phase       UpgradePhase `json:"phase"`
	StartedAt   time.Time    `json:"startedAt"`
	FinishedAt  time.Time    `json:"finishedAt,omitzero"`
	FromImage   string       `json:"fromImage"`
	ToImage     string       `json:"toImage"`
	FromVersion string       `json:"fromVersion,omitempty"`
	ToVersion   string       `json:"toVersion,omitempty"`
	// Pause is how long nobody served the connection.
	Pause time.Duration `json:"pause,omitempty"`
	// Message is the cause of a roll-back.
	Message string `json:"message,omitempty"`
	// StallBudget is how long nobody may serve before it is rolled back.
	StallBudget time.Duration `json:"stallBudget,omitempty"`
	// Aborted asks for a roll-back as long as applications do not wait.
	Aborted bool `json:"aborted,omitempty"`

	// Inputs and Image are what the successor is made from, and the mount from
	// then on; Inputs are empty when the upgrade has ended.
	Inputs volume.Inputs `json:"inputs,omitzero"`
	Image  string        `json:"image,omitempty"`
}

// Running is true for an upgrade that has not ended; nil is none.
func (u *Upgrade) Running() bool { return u != nil && !u.Phase.Ended() }

// End ends a running upgrade.
func (u *Upgrade) End(phase UpgradePhase, message string) {
	u.Phase, u.Message, u.FinishedAt, u.Inputs = phase, message, time.Now().UTC(), volume.Inputs{}
}
