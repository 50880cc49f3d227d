package devcluster

import "context"

func redisFlags(l layout) []string {
	return []string{
		"--bind", ControlPlaneIP,
		"--port", "6379",
		"--protected-mode", "no",
		"--save", "",
		"--appendonly", "no",
		"--dir", l.path("redis"),
	}
}

// StartRedis starts a Redis server at RedisAddress, without persistence and
// without a password, for pods on all nodes and for the machine; fine when it
// runs already.
func (c *Cluster) StartRedis(ctx context.Context) error {
	path, err := lookTool("redis-server")
	if err != nil {
		return missingTools([]requirement{{"redis-server", "redis-server"}}, lookTool)
	}
	if p, err := readProcess(c.layout.pidFile("redis")); err != nil || !p.alive() {
		err := c.layout.startDaemon(ctx, daemon{
			name:    "redis",
			machine: c.layout.machine(controlPlaneName),
			path:    path,
			args:    redisFlags(c.layout),
		})
		if err != nil {
			return err
		}
	}
	err = c.wait(ctx, "Redis", func(ctx context.Context) (bool, error) {
		err := tryDial(ctx, "tcp", RedisAddress)
		return err == nil, err
	})
	if err != nil || c.state.Redis {
		return err
	}
	c.state.Redis = true
	return c.save()
}
