# SPDX-License-Identifier: Apache-2.0
# Ruby: threads that pass numbers along a ring of queues, and one that makes garbage.
require 'digest'

LOCK = Mutex.new

def report(text)
  LOCK.synchronize { File.open('steps', 'a') { |f| f.syswrite("#{text}\n") } }
end

queues = Array.new(4) { Queue.new }
ring = 3.times.map do |k|
  Thread.new do
    while (n = queues[k].pop) != :end
      queues[k + 1] << n + 1
    end
  end
end
held = Array.new(2000) { |n| "string #{n}" * 20 }
digest = Digest::SHA256.hexdigest(held.join)
garbage = Thread.new do
  n = 0
  until File.exist?('stop')
    n += 1
    (1..500).map { |x| "garbage #{x * n}" }
    GC.start if (n % 50).zero?
    report("garbage #{n}")
    sleep 0.01
  end
end
n = 0
until File.exist?('stop')
  n += 1
  queues[0] << n * 10
  answer = queues[3].pop
  report("bad answer #{answer} to #{n}") unless answer == n * 10 + 3
  report("ring #{n}")
  sleep 0.005
end
garbage.join
queues[0..2].each { |q| q << :end }
ring.each(&:join)
report('bad digest') unless Digest::SHA256.hexdigest(held.join) == digest
report('done')
