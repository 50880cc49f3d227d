package devcluster

import (
	"context"
	"net"
	"time"
)

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
		err := c.layout.startDaemon(daemon{
			name:    "redis",
			machine: c.layout.machine(controlPlaneName),
			path:    path,
			args:    redisFlags(c.layout),
		})
		if err != nil {
			return err
		}
	}
	err = c.wait(ctx, "Redis", func(context.Context) (bool, error) {
		conn, err := net.DialTimeout("tcp", RedisAddress, time.Second)
		if err != nil {
			return false, err
		}
		return true, conn.Close()
	})
	if err != nil || c.state.Redis {
		return err
	}
	c.state.Redis = true
	return c.save()
}
